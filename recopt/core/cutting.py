"""The part of a strategy's update that a guard keeps, where a level above tunes its rate or it moves numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.state import RunState
from . import guard
from .carriers import Carriers
from .limits import Limits
from .slots import Slots


class Cutting:
    """Measures updates of tensors before they are made."""

    def __init__(self, carriers: Carriers, slots: Slots, limits: Limits) -> None:
        self.carriers, self.slots, self.limits, self.levels = carriers, slots, limits, carriers.levels

    def kept(self, state: RunState, number: int, point: Params, update: Params, factor: float) -> float:
        """The part of the update that is kept if it is a wild one, with the rate lowered to match; 1 otherwise."""
        memory, rate, level, keep = state.guard, self.carriers.rates[number], self.levels[number], 1.0
        if level.guard and level.moves in self.carriers.spaces:
            return self._keep_of_numbers(state, number, update)
        if memory is None or rate is None or not level.guard or level.moves != TASK:
            return keep
        numbers: Any = state.slots[self.levels[number].by]
        if not guard.due(memory, number, numbers.coords[rate], state.norm, factor):
            return keep
        places = [i for part in state.levels[number].parts for i in part.indices]
        ratio, keep = self._ratio([point[i].detach() for i in places], [update[i].detach() for i in places])
        if ratio > 1:
            self.limits.lower(state, number, keep)
        memory.checks[number] = (min(ratio, 1.0), numbers.coords[rate], state.norm, memory.steps + 1, factor)
        return keep

    def _keep_of_numbers(self, state: RunState, number: int, update: Params) -> float:
        """Likewise, where what is moved are numbers."""
        rate, space = self.carriers.rates[number], self.carriers.spaces[self.levels[number].moves]
        bounded = [space.bounded[i] for i in self.slots.index(state, number)]
        keep = 1 / guard.excess(torch.stack([u.detach().double() for u in update]).tolist(), bounded)
        if keep < 1:
            guard.count(state.levels[number].counts, "bounded")
            if rate is not None:
                self.limits.lower_rate(state, number, keep)
        return keep

    def _ratio(self, point: Params, update: Params) -> tuple[float, float]:
        """The length of an update over the longest allowed, and what may be kept of it."""
        length = self.limits.shards.norm(update)
        limit = guard.REACH * self.limits.size([p + u for p, u in zip(point, update, strict=True)])
        if not length > limit:
            return (length / limit if math.isfinite(length) else 0.0), 1.0
        return length / limit, min(1.0, guard.REACH * self.limits.size(point) / length)
