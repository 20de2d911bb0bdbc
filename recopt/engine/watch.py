"""Watches the slots of an engine: where a loss or gradient is bad, the slot goes back to its last good value."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..core import guard
from ..core.state import Guard, RunState

if TYPE_CHECKING:
    from .engine import Engine


class Checked(NamedTuple):
    """A slot's loss, finite; where a guard put the slot back (None: nowhere); the gradient's norm if it is known."""

    loss: Tensor
    bad: Tensor | None = None
    norm: float | None = None


class Watcher:
    """Applies the guards of an engine's slots."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def check(self, state: RunState, name: str, loss: Tensor, grads: Params | None, explosions: bool = True) -> Checked:
        """Check a slot's new loss and gradient; put the slot back where they are bad."""
        numbers = self.engine.graph.movers[name]
        if not any(self.engine.levels[n].guard for n in numbers):
            return Checked(loss)
        slot = state.slots[name]
        states = [state.levels[n].strategy for n in numbers]
        now = state.guards.get(name) or guard.start(slot.params, states, loss.numel())
        was = guard.frozen(now)
        size = trees.norm(grads, batched=loss.ndim > 0) if grads else torch.zeros_like(loss.detach())
        losses, norms = torch.stack([loss.detach(), size.to(loss)]).view(2, -1).tolist()
        found = guard.bad(now, losses, norms, explosions)
        if any(found):
            wrong = self._put_back(state, name, now, found, loss)
            loss = guard.capped(now, loss, wrong)
            states = [state.levels[n].strategy for n in numbers]
        after = state.guards[name] = guard.judged(now, found, losses, slot.params, states)
        stopped = guard.frozen(after)
        acts = {"restored": after.restored} if any(found) else {}
        if stopped != was:
            acts["frozen"] = sum(stopped)
            self._tell(state, name, stopped)
        if explosions and (larger := sum(guard.resized(now, found, losses))):
            acts["resized"] = larger
        if acts:
            self.engine.log(state, numbers[0] + 1, acts)
        if not any(found) and not any(stopped):
            return Checked(loss, norm=sum(norms) / len(norms))
        still = [f or s for f, s in zip(found, stopped, strict=True)]
        return Checked(loss, torch.tensor(still, device=loss.device).view(loss.shape))

    def _tell(self, state: RunState, name: str, stopped: list[bool]) -> None:
        """Warn that a slot is left alone from now on; not of what is only replayed."""
        if self.engine.sink is None:
            return
        whose = f", {sum(stopped)} of {len(stopped)} tasks" if len(stopped) > 1 else ""
        warnings.warn(
            f"'{name}' is left as it is from step {state.step:,} on{whose}: there were {guard.PATIENCE} evaluations "
            "with a loss or gradient that is not finite, or a loss that explodes, and no good step between them.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _put_back(self, state: RunState, name: str, now: Guard, found: list[bool], loss: Tensor) -> Tensor:
        """Put a slot, and the states of the levels that move it, back to the last good ones where ``found``."""
        slot, wrong = state.slots[name], torch.tensor(found, device=loss.device).view(loss.shape)
        slot.params = trees.choose(wrong, now.point, trees.detach(slot.params))
        for n, good in zip(self.engine.graph.movers[name], now.states, strict=True):
            state.levels[n].strategy = trees.choose(wrong, good, trees.detach(state.levels[n].strategy))
        slot.version += 1
        self.engine.slots.leaves(state, name)
        return wrong
