"""The levels that move the task: their parts, and how they step in place by columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.averages import fold, folded
from ..levels.level import TASK
from ..levels.parts import Part
from ..levels.registry import TRANSFORMS
from ..levels.state import RunState, Signal
from ..rules.columns import Sums
from ..rules.numbers import FAILS
from ..rules.shards import Shards
from ..rules.tensors import TensorMover
from .beginnings import Beginnings
from .carriers import Carriers
from .limits import Limits, Overshoot
from .slots import Slots


class Bottom:
    """Steps the levels that move the task.

    Args:
        shards: how the task's tensors are split over processes.

    Attributes:
        limits: keep updates short, and take them back; overshoot: judges the first ones from zero.
    """

    def __init__(self, carriers: Carriers, slots: Slots, beginnings: Beginnings, shards: Shards) -> None:
        self.slots, self.beginnings, self.shards = slots, beginnings, shards
        self.carriers, self.levels = carriers, carriers.levels
        self.limits = Limits(carriers, slots, shards)
        self.overshoot = Overshoot(carriers, slots, self.limits)
        for mover in carriers.columns.values():
            mover.over(shards)
        self._averaging = [(n, d) for n in carriers.descents if (d := self.levels[n].average) is not None]

    def admit(self, state: RunState, number: int, grads: Sequence[Tensor | None]) -> None:
        """Make a part of those tensors that have a gradient for the first time, and are not empty."""
        own = state.levels[number]
        had = {i for part in own.parts for i in part.indices}
        if len(had) == len(grads):
            return
        point = self.slots.point(state, number)
        # What is empty here may be a part of a split tensor, and all processes must make the same parts.
        fresh = [i for i, g in enumerate(grads) if g is not None and i not in had and (self.shards or point[i].numel())]
        for some in [[i] for i in fresh] if self.carriers.wide[number] else [fresh] if fresh else []:
            own.parts.append(Part(some, self.beginnings.state_at(state, number, some)))

    def measures(self, state: RunState, number: int) -> bool:
        """True if closed derivatives of a level's updates are asked for, and there are any."""
        mover = self.carriers.columns.get(number)
        return mover is not None and bool(mover.moved) and any(part.recorded for part in state.levels[number].parts)

    def measure(self, state: RunState, number: int, cotangents: Params) -> list[Sums]:
        """The sums that closed derivatives need of the tensors, part by part."""
        mover, point = self.carriers.columns[number], self.slots.point(state, number)
        numbers = self.slots.numbers(state, number)
        return [mover.measure(part, part.within(point), part.awake(part.within(cotangents)), numbers)
                for part in state.levels[number].parts]  # fmt: skip

    def slopes(self, state: RunState, number: int, signal: Signal) -> list[float] | None:
        """The derivative, by its strategy's coordinates, of the loss that came after; None: nothing is recorded.

        ``signal`` is that of the level, which moves numbers, or the task by columns.
        """
        place = self.carriers.places.get(number)
        if place is not None:
            return place.slopes(state, signal)
        mover, numbers = self.carriers.columns[number], self.slots.numbers(state, number)
        total: list[float] | None = None
        for part, read in zip(state.levels[number].parts, state.sums.get(number, []), strict=False):
            try:
                found = mover.slopes(part, read, numbers)
            except FAILS:
                return [math.nan] * len(numbers.coords)
            if found is not None:
                total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        return total

    def step(self, state: RunState, number: int, signal: Signal, factor: float) -> Params:
        """One step of a level that moves the task by columns; what it read of ``signal``. ``factor``: on the update."""
        mover, own = self.carriers.columns[number], state.levels[number]
        assert signal.grads is not None
        numbers = self.slots.numbers(state, number)
        point, normalize = self.slots.point(state, number), TRANSFORMS[self.levels[number].normalize or "none"]
        unknown = not self.carriers.windows[number] and self.limits.due(state, number, factor)
        before = [p.clone() for p in point] if unknown else None
        reads: Params = []
        for part in own.parts:
            mine, grads = part.present(point, signal.grads)
            if not grads:
                continue
            read, part.normal = normalize(grads, part.normal, None)
            part.kept.pop("cut", None)
            mover.step(part, mine, read, numbers, factor)
            reads += read
        state.slots[TASK].version += 1
        self.limits.keep_short(state, number, factor, before)
        return reads

    def fold(self, state: RunState) -> None:
        """Take the present point, which turned out to be good, into the means that levels keep."""
        for number, decay in self._averaging:
            point = [p.detach() for p in self.slots.point(state, number)]
            for part in state.levels[number].parts:
                fold(part, part.within(point), decay, self.carriers.setting.in_place)

    def eval_points(self, state: RunState) -> Params:
        """The task's parameters where its levels would have the model used."""
        found = [p.detach() for p in state.slots[TASK].params]
        for number in self.carriers.descents:
            level, index = self.levels[number], self.slots.index(state, number)
            strategy = self.carriers.graph.slots[level.by]
            point = trees.detach(self.slots.point(state, number))
            for part in state.levels[number].parts:
                mine = part.within(point)
                if level.average is not None:
                    mine = folded(part.mean, mine, level.average, part.folds + 1)
                elif strategy.keeps_mean():
                    values, tasks = [p.detach() for p in state.slots[level.by].params], self.carriers.setting.tasks
                    mine = TensorMover(strategy).eval_point(values, mine, trees.detach(part.strategy), tasks)
                for i, value in zip(part.indices, mine, strict=True):
                    found[index[i]] = value
        return found
