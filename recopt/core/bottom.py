"""The levels that move the task: their parts, and how they step in place by columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.registry import TRANSFORMS
from ..levels.state import Part, RunState, Signal
from ..rules.columns import Sums
from ..rules.shards import Shards
from .beginnings import Beginnings
from .carriers import Carriers
from .limits import Limits
from .means import Means
from .parts import awake, present, within
from .slots import Slots


class Bottom:
    """Steps the levels that move the task.

    Args:
        shards: how the task's tensors are split over processes.

    Attributes:
        limits: keep updates short, and take them back.
        means: of the points that they went through.
        numbers: the levels that move the task by gradients.
        columns: by level, its mover, if it moves the task in place without a tape.
    """

    def __init__(self, carriers: Carriers, slots: Slots, beginnings: Beginnings, shards: Shards) -> None:
        self.slots, self.beginnings, self.shards, self.levels = slots, beginnings, shards, carriers.levels
        self.limits = Limits(carriers, slots, shards)
        self.numbers, self.columns = self.limits.numbers, self.limits.columns
        self.means = Means(carriers, slots, self.numbers)

    def admit(self, state: RunState, number: int, grads: Sequence[Tensor | None]) -> None:
        """Make a part of those tensors that have a gradient for the first time, and are not empty."""
        own = state.levels[number]
        seen = {i for part in own.parts for i in part.indices}
        if len(seen) == len(grads):
            return
        point = self.slots.point(state, number)
        fresh = [i for i, g in enumerate(grads) if g is not None and i not in seen]
        # What is empty here may be a part of a split tensor, and all processes must make the same parts.
        fresh = [i for i in fresh if point[i].numel() or self.shards]
        if fresh:
            own.parts.append(Part(fresh, self.beginnings.state_at(state, number, fresh)))

    def measures(self, state: RunState, number: int) -> bool:
        """True if closed derivatives of a level's updates are asked for, and there are any."""
        mover = self.columns[number]
        return mover is not None and bool(mover.moved) and any(part.recorded for part in state.levels[number].parts)

    def measure(self, state: RunState, number: int, cotangents: Params) -> list[Sums]:
        """The sums that closed derivatives need of the tensors, part by part."""
        mover = self.columns[number]
        assert mover is not None
        point = self.slots.point(state, number)
        numbers: Any = state.slots[self.levels[number].by]
        return [mover.measure(part, within(part, point), awake(part, within(part, cotangents)), numbers)
                for part in state.levels[number].parts]  # fmt: skip

    def slopes(self, state: RunState, number: int, sums: Sequence[dict[str, float]]) -> list[float] | None:
        """The derivative, by its strategy's coordinates, of the loss that came after; None: nothing is recorded."""
        mover = self.columns[number]
        numbers: Any = state.slots[self.levels[number].by]
        assert mover is not None
        total: list[float] | None = None
        try:
            for part, read in zip(state.levels[number].parts, sums, strict=False):
                found = mover.slopes(part, read, numbers)
                if found is not None:
                    total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        except (ZeroDivisionError, OverflowError, ValueError, KeyError):
            return [math.nan] * len(numbers.coords)
        return total

    def step(self, state: RunState, number: int, signal: Signal, factor: float) -> Params:
        """One step of a level that moves the task by columns; what it read of ``signal``. ``factor``: on the update."""
        mover = self.columns[number]
        assert mover is not None and signal.grads is not None
        own = state.levels[number]
        numbers: Any = state.slots[self.levels[number].by]
        point, normalize = self.slots.point(state, number), TRANSFORMS[self.levels[number].normalize or "none"]
        reads: Params = []
        for part in own.parts:
            mine, grads = present(part, point, signal.grads)
            if not grads:
                continue
            read, part.normal = normalize(grads, part.normal, None)
            part.kept.pop("cut", None)
            mover.step(part, mine, read, numbers, factor)
            reads += read
        state.slots[TASK].version += 1
        self.limits.keep_short(state, number, factor)
        return reads
