"""Where signals come from: evaluations of the task, each charged to the level that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contracts.strategy import Params
from ..core.level import TASK
from ..core.state import RunState, Signal, SlotState

if TYPE_CHECKING:
    from .engine import Engine


class Source:
    """Evaluates the task slot of an engine.

    Attributes:
        held_out: the signal on the held-out batch that goes with the present evaluation, once somebody asked for it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.numbers = engine.graph.movers[TASK]
        self.read = any(engine.graph.order(n) for n in self.numbers)
        self.held_out: Signal | None = None

    def signal(self, state: RunState) -> None:
        """The loss and gradient at the task's present point, as the signal of the levels that move it."""
        engine, slot = self.engine, state.slots[TASK]
        self.held_out = None
        batch = engine.evaluator.batch(slot, slot.seen, "train")
        loss, grads, slot.buffers = self._evaluate(state, slot, batch, engine.truncation.graph_needed(state))
        slot.seen += 1
        each = {"losses": loss.detach()} if engine.each else {}
        engine.log(state, 0, {"loss": loss.detach().mean() if loss.ndim else loss.detach(), **each})
        pairs = list(zip(slot.params, grads or [], strict=False)) if engine.truncation.exact else []
        loss, bad, size = engine.watcher.check(state, TASK, loss, grads)
        if bad is not None and grads is not None:
            still = [bad.view(-1, *[1] * (g.ndim - 1)) if bad.ndim else bad for g in grads]
            grads = [torch.where(s, 0.0, g).detach() for s, g in zip(still, grads, strict=True)]
            pairs = [(t, g) for (t, _), g in zip(pairs, grads, strict=False)]
        for n in self.numbers:
            own = None if grads is None else [grads[i] for i in engine.slots.index(state, n)]
            known = size if own is not None and len(own) == len(slot.params) else None
            state.pending[n] = Signal(loss, own, pairs, bad=bad, norm=known)

    def valid(self, state: RunState, number: int, signal: Signal) -> Signal:
        """The signal of level ``number`` on a held-out batch in the place of the training batch's."""
        engine, slot = self.engine, state.slots[TASK]
        if self.held_out is None:
            batch = engine.evaluator.batch(slot, slot.seen - 1, "valid")
            loss, grads, _ = self._evaluate(state, slot, batch, engine.truncation.graph_needed(state))
            engine.log(state, 0, {"valid_loss": loss.detach().mean()})
            self.held_out = Signal(loss, grads, list(zip(slot.params, grads or [], strict=False)))
        held = self.held_out
        own = [held.grads[i] for i in engine.slots.index(state, number)] if held.grads else None
        return Signal(held.loss, own, held.pairs, bad=signal.bad)

    def first(self, state: RunState, part: SlotState) -> Signal:
        """The loss and gradient of the tasks in ``part`` at their start, on the batch of the present evaluation."""
        batch = self.engine.evaluator.batch(part, state.slots[TASK].seen - 1, "train")
        loss, grads, part.buffers = self._evaluate(state, part, batch, False)
        return Signal(loss, grads)

    def scorer(self, state: RunState, number: int) -> Callable[[Params], Tensor]:
        """What gives the loss, on the batch of the present evaluation, of another point for level ``number``."""
        engine, slot = self.engine, state.slots[TASK]
        batch = engine.evaluator.batch(slot, slot.seen - 1, "train")

        def score(point: Params) -> Tensor:
            params = list(slot.params)
            for i, value in zip(engine.slots.index(state, number), point, strict=True):
                params[i] = value
            engine.budget.spend(engine.searcher.payer(state), loss=engine.tasks)
            return engine.evaluator.value(slot, params, batch)

        return score

    def _evaluate(
        self, state: RunState, slot: SlotState, batch: Any, graph: bool
    ) -> tuple[Tensor, Params | None, list[Tensor]]:
        """The loss, the gradient if a level reads it (with a graph through it or none at all), the buffers after."""
        engine, tasks = self.engine, len(slot.starts) or self.engine.tasks
        payer = engine.searcher.payer(state)
        if self.read:
            engine.budget.spend(payer, gradient=tasks)
            return engine.evaluator.gradient(slot, batch, graph)
        engine.budget.spend(payer, loss=tasks)
        with torch.no_grad():
            loss, buffers = engine.evaluator.losses(slot, slot.params, batch)
        return loss, None, buffers
