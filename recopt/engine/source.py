"""Evaluations of the task, each charged to the level that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..contracts.strategy import Params
from ..contracts.task import Split
from ..core.evaluation import Evaluation
from ..levels.level import LOSS
from ..levels.state import Pair, RunState, Signal, SlotState
from .budget import Budget
from .copies import Copies
from .evaluate import Evaluator
from .loss_slot import weigh
from .ways import Grads


class Source:
    """Evaluates the task slot of a run.

    Args:
        home: gives the run's present state.
        index: the places of what a level moves.
        payer: the level (0-based) that an evaluation is charged to.
        log: adds a point to the record of the task.
        pull: adds what holds an episode near its start to a training loss and its gradient.
        gradients: whether a level of the task reads them.
        pairs: whether an exact level reads the gradients with the points.
        each: whether the record also holds the loss of each task.
    """

    def __init__(
        self, evaluator: Evaluator, copies: Copies, budget: Callable[[], Budget], *, home: Callable[[], RunState],
        index: Callable[[RunState, int], list[int]], payer: Callable[[RunState], int],
        log: Callable[[RunState, dict[str, Any]], None], gradients: bool, pairs: bool, each: bool,
        pull: Callable[[RunState, Tensor, Any, bool], tuple[Tensor, Any]],
    ) -> None:  # fmt: skip
        self.evaluator, self.copies, self.budget, self.home = evaluator, copies, budget, home
        self.index, self.payer, self.log, self.pull = index, payer, log, pull
        self.gradients, self.pairs, self.each = gradients, pairs, each

    def evaluate(self, state: RunState, graph: bool) -> Evaluation:
        """The task at its present point on its next batch; ``graph``: its gradient is differentiated once more."""
        slot = state.task
        batch = self.batch(state, slot, slot.seen)
        self.pay(state, self.evaluator.family.total)
        loss, grads = self._found(slot, batch, graph)
        slot.seen += 1
        state.read = state.slots[LOSS].version if LOSS in state.slots else 0
        plain = loss.detach()
        loss, grads = self.pull(state, loss, grads, graph)
        each = {"losses": plain} if self.each else {}
        self.log(state, {"loss": plain.mean() if plain.ndim else plain, **each})
        pairs = _pairs(slot, grads) if self.pairs else []
        return self.around(Evaluation(loss, grads, pairs), graph)

    def around(self, found: Evaluation, graph: bool = False) -> Evaluation:
        """``found`` with what may be asked besides, in the present state: held-out batches, other points."""

        def valid() -> Evaluation:
            state = self.home()
            held = state.held = state.held or self._held_out(state, graph)
            return Evaluation(held.loss, held.grads, held.pairs)

        def again() -> Evaluation | None:
            return self._again(self.home())

        found.held, found.again = valid, again
        found.cut = lambda bad: self.evaluator.cut(self.home().task, bad)
        found.scores = lambda number, points: self._scores(self.home(), number, points)
        return found

    def batch(self, state: RunState, slot: SlotState, index: int, split: Split = "train") -> Any:
        """Batch ``index`` of the slot's tasks, with the present values of the loss's parameters."""
        evaluator = self.evaluator
        return weigh(state, evaluator.batch(slot, index, split), evaluator.family.place, split != "train")

    def _again(self, state: RunState) -> Evaluation | None:
        """The task on its present batch once more, if the loss's parameters have moved since it was evaluated."""
        slot, loss = state.task, state.slots.get(LOSS)
        if loss is None or loss.version == state.read:
            return None
        state.read, kept = loss.version, [b.clone() for b in slot.buffers]
        self.pay(state, self.evaluator.family.total)
        found, grads = self._found(slot, self.batch(state, slot, slot.seen - 1), self.pairs)
        found, grads = self.pull(state, found, grads, self.pairs)
        slot.buffers = kept
        pairs = _pairs(slot, grads) if self.pairs else []
        return Evaluation(found, grads, pairs, cut=lambda bad: self.evaluator.cut(slot, bad))

    def _held_out(self, state: RunState, graph: bool) -> Signal:
        """The task on the held-out batch that goes with the present one."""
        slot = state.task
        batch = self.batch(state, slot, slot.seen - 1, "valid")
        kept = [b.clone() for b in slot.buffers]
        self.pay(state, self.evaluator.family.total)
        loss, grads = self._found(slot, batch, graph)
        slot.buffers = kept
        self.log(state, {"valid_loss": loss.detach().mean()})
        return Signal(loss, grads, _pairs(slot, grads))

    def first(self, state: RunState, part: SlotState) -> tuple[Tensor, Grads | None]:
        """The loss and gradient of the tasks in ``part`` at their start, on the batch of the present evaluation."""
        batch = self.batch(state, part, state.task.seen - 1)
        return self._found(part, batch, False)

    def first_held_out(self, state: RunState, part: SlotState) -> Tensor:
        """The loss of the tasks in ``part`` at their start, on the held-out batch that goes with it."""
        batch, kept = self.batch(state, part, state.task.seen - 1, "valid"), [b.clone() for b in part.buffers]
        loss, part.buffers = self.evaluator.loss(part, batch), kept
        return loss

    def _scores(self, state: RunState, number: int, points: Sequence[Params]) -> list[Tensor]:
        """The losses, on the batch of the present evaluation, of other points for a level of the task."""
        slot = state.task
        batch = self.batch(state, slot, slot.seen - 1)
        index, found = self.index(state, number), list[Params]()
        for point in points:
            moved = dict(zip(index, point, strict=True))
            found.append([moved.get(i, p) for i, p in enumerate(slot.params)])
        self.budget().spend(self.payer(state), loss=self.evaluator.family.total * len(points))
        return self.copies.losses(slot, found, batch) if found else []

    def _found(self, slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Grads | None]:
        """The loss, and the gradient if a level reads it (with a graph through it or none at all)."""
        if self.gradients:
            return self.evaluator.gradient(slot, batch, graph)
        return self.evaluator.loss(slot, batch), None

    def pay(self, state: RunState, tasks: int) -> None:
        """Charge an evaluation of ``tasks`` in all processes."""
        self.budget().spend(self.payer(state), **{"gradient" if self.gradients else "loss": tasks})


def _pairs(slot: SlotState, grads: Grads | None) -> list[Pair]:
    return [(t, g) for t, g in zip(slot.params, grads or [], strict=False) if g is not None]
