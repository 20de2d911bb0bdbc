"""Means of the points that the levels of the task went through."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.averages import folded, share
from ..levels.level import TASK
from ..levels.state import RunState
from ..rules.tensors import TensorMover
from .carriers import Carriers
from .parts import within
from .slots import Slots


class Means:
    """Keeps the means that levels ask for, and says where they would have the model used.

    Args:
        numbers: the levels that move the task by gradients.
    """

    def __init__(self, carriers: Carriers, slots: Slots, numbers: Sequence[int]) -> None:
        self.carriers, self.slots, self.numbers = carriers, slots, numbers
        self.levels, self.setting = carriers.levels, carriers.setting

    def fold(self, state: RunState, good: Sequence[bool]) -> None:
        """Take the present point, which turned out to be good, into the means that levels keep."""
        for number in self.numbers:
            decay = self.levels[number].average
            if decay is None or not any(good):
                continue
            point = self.slots.point(state, number)
            for part in state.levels[number].parts:
                mine, weight = [p.detach() for p in within(part, point)], share(decay, part.folds + 1)
                if weight < 1 and self.setting.in_place:
                    torch._foreach_lerp_(part.mean, mine, weight)
                elif weight < 1:
                    part.mean = folded(part.mean, mine, decay, part.folds + 1)
                else:
                    part.mean = [p.clone() for p in mine]
                part.folds += 1

    def eval_points(self, state: RunState) -> Params:
        """The task's parameters where its levels would have the model used."""
        found = [p.detach() for p in state.slots[TASK].params]
        for number in self.numbers:
            level, index = self.levels[number], self.slots.index(state, number)
            strategy = self.carriers.graph.slots[level.by]
            point = trees.detach(self.slots.point(state, number))
            for part in state.levels[number].parts:
                mine = within(part, point)
                if level.average is not None:
                    mine = folded(part.mean, mine, level.average, part.folds + 1)
                elif strategy.keeps_mean():
                    values = [p.detach() for p in state.slots[self.levels[number].by].params]
                    asked = TensorMover(strategy)
                    mine = asked.eval_point(values, mine, trees.detach(part.strategy), self.setting.tasks)
                for i, value in zip(part.indices, mine, strict=True):
                    found[index[i]] = value
        return found
