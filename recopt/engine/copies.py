"""Copies of one task's model at values of their own, evaluated in one call: the points of a population.

A call is mapped (``torch.func.vmap``) where that gives plain torch's losses and gradients, which is looked at once. A
model that draws random numbers is left to its caller, since each copy is to draw what it would draw alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checking.errors import Notice
from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.state import SlotState
from .evaluate import Evaluator
from .family import Drawn, Family, kind
from .probe import UNMAPPED, Choice, Probe
from .randomness import Draws
from .ways import Function, Grads

T = TypeVar("T")
LEAST, MOST = 3, 64
"""Copies for which one call is worth it, and the most in one call."""
ELEMENTS = 1 << 24
"""The most numbers of a model that a call holds copies of: 64 MiB in float32."""


class _Twice(Family):
    """The tasks of a family of one, each beside itself."""

    def __init__(self, family: Family) -> None:
        super().__init__(family.task, 2, family.seed, family.device, family.dtype)
        self.one = family

    def drawn(self, draw: int) -> Drawn:
        """The task of draw number ``draw``, twice."""
        found = self.one.drawn(draw)
        return Drawn(found.tasks * 2, found.names, found.moving)


class Copies:
    """Evaluates the task of a run at many points at once.

    Args:
        gradients: whether a level reads the gradients of the task.
    """

    def __init__(self, evaluator: Evaluator, gradients: bool) -> None:
        self.evaluator, self.gradients = evaluator, gradients
        self.family = None if evaluator.family.batched else _Twice(evaluator.family)
        self._choices: dict[Any, Choice | None] = {}
        self._ways = dict[int, Function]()
        self._told = set[str]()

    def groups(self, count: int, size: int) -> list[range]:
        """``count`` copies of ``size`` numbers in groups that one call may hold; none if it is not worth it."""
        most = min(MOST, ELEMENTS // max(size, 1))
        if self.family is None or min(most, count) < LEAST:
            return []
        return [range(n, min(n + most, count)) for n in range(0, count, most)]

    def losses(self, slot: SlotState, points: Sequence[Params], batch: Any) -> list[Tensor]:
        """The loss at each of ``points``, without a graph; the first by the model alone, which tells what it draws."""
        draws = Draws(self.evaluator.family.device)
        found = [self.evaluator.value(slot, points[0], batch)]
        rest = list(points[1:])
        groups = [] if draws.any() else self.groups(len(rest), sum(p.numel() for p in slot.params))
        for group in groups:
            some = self._mapped(slot, [rest[n] for n in group], batch)
            if some is None:
                break
            found += some
        return found + [self.evaluator.value(slot, point, batch) for point in rest[len(found) - 1 :]]

    def _mapped(self, slot: SlotState, points: Sequence[Params], batch: Any) -> list[Tensor] | None:
        way = None if self.evaluator.quietly.inside else self._way(slot.draw)
        if way is None:
            return None
        params = trees.stack([[p.detach() for p in point] for point in points])
        buffers = [b.expand(len(points), *b.shape) for b in slot.buffers]

        def call() -> Tensor:
            with torch.no_grad():
                return way.found(self.evaluator.family.members(slot), params, buffers, [batch] * len(points))[0]

        loss = self._tried(slot.draw, call)
        return None if loss is None else list(loss.unbind())

    def gradient(
        self, slot: SlotState, params: Params, buffers: list[Tensor], batch: Any
    ) -> tuple[Tensor, Grads, list[Tensor]] | None:
        """Losses and gradients at ``params`` and ``buffers``, which lead with the copies, and the buffers after it.

        ``slot`` is that of one of them. None if they cannot be had at once.
        """
        way, at = self._way(slot.draw), SlotState(params, buffers)
        if way is None:
            return None
        batches, tasks = [batch] * len(params[0]), self.evaluator.family.members(slot)
        found = self._tried(slot.draw, lambda: way.gradient(tasks, at, batches, False))
        return None if found is None else (*found, at.buffers)

    def _tried(self, draw: int, call: Callable[[], T]) -> T | None:
        """The answer of ``call``; None from now on if it fails or draws random numbers, which are then put back."""
        draws, why = Draws(self.evaluator.family.device), "it draws random numbers"
        try:
            found = call()
        except RuntimeError as error:
            why = " ".join(str(error).split()).partition(". ")[0][:150]
        else:
            if not draws.any():
                return found
        draws.undo()
        assert self.family is not None
        self._choices[kind(self.family.drawn(draw).tasks[0])] = None
        self._tell(why)
        return None

    def _way(self, draw: int) -> Function | None:
        """The way in which copies of the task of a draw are evaluated, chosen when it is first asked for."""
        if self.family is None or not self.family.task.vectorize:
            return None
        like = kind(self.family.drawn(draw).tasks[0])
        if like not in self._choices:
            self._choices[like] = self._choice(draw)
        choice = self._choices[like]
        if choice is None:
            return None
        if draw not in self._ways:
            self._ways = {d: way for d, way in self._ways.items() if d >= draw - 2}
            made = choice.way(self.family, draw)
            assert isinstance(made, Function)
            self._ways[draw] = made
        return self._ways[draw]

    def _choice(self, draw: int) -> Choice | None:
        assert self.family is not None
        probe = Probe(self.family, draw, False, self.gradients)
        found = probe.choice()
        if found.mapped:
            return found
        self._tell(probe.unmapped)
        return None

    def _tell(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            said = f"The trials of a population are scored one after the other, as the model {UNMAPPED.format(why)}"
            warnings.warn(said, Notice, stacklevel=2)
