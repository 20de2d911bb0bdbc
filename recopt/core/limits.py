"""The guard's acts on the levels that move the task: updates that are kept short, and those that are taken back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.state import RunState, Window
from ..rules.columns import ColumnMover
from ..rules.shards import Shards
from . import guard
from .carriers import Carriers
from .parts import awake, within
from .slots import Slots


class Limits:
    """Keeps updates of the task short, and takes them back.

    Attributes:
        numbers: the levels that move the task by gradients.
        columns: by level, its mover, if it moves the task in place without a tape.
        guarded: whether a level of the task is.
    """

    def __init__(self, carriers: Carriers, slots: Slots, shards: Shards) -> None:
        self.carriers, self.slots, self.shards = carriers, slots, shards
        self.levels, self.setting = carriers.levels, carriers.setting
        self.numbers = [n for n, x in enumerate(self.levels) if x.moves == TASK and carriers.graph.order(n)]
        self.columns = [mover if isinstance(mover, ColumnMover) else None for mover in carriers.movers]
        self.guarded = any(level.guard for level in self.levels if level.moves == TASK)

    def last(self, state: RunState, number: int) -> Params | None:
        """The last update of a level that moves the task by columns, zero where there was none; None if not known."""
        own, point, mover = state.levels[number], self.slots.point(state, number), self.columns[number]
        numbers: Any = state.slots[self.levels[number].by]
        out: Params | None = None
        for part in own.parts:
            found = part.kept.get("cut")
            if found is None and mover is not None:
                found = mover.last(part, within(part, point), numbers)
            if found is not None:
                out = [torch.zeros_like(p) for p in point] if out is None else out
                for i, u in zip(part.indices, awake(part, found), strict=True):
                    out[i] = u
        return out

    def _before(self, state: RunState, number: int) -> Params | None:
        """The point before a level's last update; None if it is not known."""
        point, update = trees.detach(self.slots.point(state, number)), self.last(state, number)
        if update is not None:
            return [p - u for p, u in zip(point, update, strict=True)]
        known = {i: p for part in state.levels[number].parts
                 for i, p in zip(part.indices, part.kept.get("point", []), strict=False)}  # fmt: skip
        return [known.get(i, p) for i, p in enumerate(point)] if known and self.columns[number] is None else None

    def take_back(self, state: RunState, wrong: Sequence[bool]) -> None:
        """Take the last updates of the tasks that are ``wrong`` back, and shorten those to come."""
        assert state.guard is not None
        known = {n: before for n in self.numbers if (before := self._before(state, n)) is not None}
        for number, before in known.items():
            if self.setting.tasks > 1:
                mask = torch.tensor(list(wrong), device=before[0].device)
                self.slots.put(state, number, trees.choose(mask, before, trees.detach(self.slots.point(state, number))))
            else:
                self.slots.put(state, number, before)
            self.forget(state, number)
        for n, failed in enumerate(wrong):
            if known and failed:
                guard.taken_back(state.guard, n)

    def forget(self, state: RunState, number: int) -> None:
        """Drop a level's last update, and the windows over it: no signal is to be of what is not there any more."""
        own = state.levels[number]
        own.live = []
        for part in own.parts:
            part.recorded = 0
            part.kept.pop("cut" if self.columns[number] is not None else "point", None)
        if self.setting.tasks > 1:
            return  # the windows of the other tasks go on
        for part in own.parts:
            part.strategy, part.normal = trees.detach(part.strategy), trees.detach(part.normal)
        for n in self.carriers.above[number]:
            state.levels[n].window = Window.empty(len(self.carriers.graph.subjects[n]))

    def keep_short(self, state: RunState, number: int, factor: float) -> None:
        """Cut the last update back if it was a wild one, and lower the rate to match."""
        memory, rate = state.guard, self.carriers.rates[number]
        numbers: Any = state.slots[self.levels[number].by]
        if memory is None or rate is None or not self.levels[number].guard:
            return
        if not guard.due(memory, number, numbers.coords[rate], state.norm, factor):
            return
        update, point = self.last(state, number), self.slots.point(state, number)
        if update is None or not state.levels[number].parts[0].recorded:
            return
        places = [i for part in state.levels[number].parts for i in part.indices]
        whole, update, point = update, [update[i] for i in places], [point[i] for i in places]
        length, limit = self.shards.norm(update), guard.REACH * self.size(point)
        if length > limit:
            torch._foreach_sub_(point, update)
            limit = guard.REACH * self.size(point)
            keep = min(1.0, limit / length)
            torch._foreach_add_(point, update, alpha=keep)
            self.lower(state, number, keep)
            for part in state.levels[number].parts:
                if not part.recorded:  # its rate no longer tells
                    part.kept["cut"] = [whole[i] * keep for i in part.indices]
        ratio = min(length / limit, 1.0)
        memory.checks[number] = (ratio, numbers.coords[rate], state.norm, memory.steps + 1, factor)

    def lower(self, state: RunState, number: int, keep: float) -> None:
        """The last update was only ``keep`` of what it was made: lower the rate likewise."""
        assert state.guard is not None
        guard.count(state.guard.counts, "bounded")
        self.lower_rate(state, number, keep)

    def lower_rate(self, state: RunState, number: int, keep: float) -> None:
        """Lower a level's rate, after an update that was shortened likewise; a window is at one rate."""
        rate = self.carriers.rates[number]
        numbers: Any = state.slots[self.levels[number].by]
        assert rate is not None
        leaf = numbers.leaves[rate]
        self.carriers.spaces[self.levels[number].by].put(numbers, [rate], [numbers.coords[rate] + math.log(keep)])
        mover = self.columns[number]
        if self.carriers.windows[number] == 1 and (mover is None or mover.rule.linear == "lr"):
            numbers.leaves[rate] = leaf  # the open tape runs over what it was
            return
        # The lowered rate would not have made the shortened update, unless updates are multiples of it.
        self.forget(state, number)

    def size(self, point: Params) -> float:
        """The norm of tensors that a level moves, or of tensors of a root mean square of FLOOR if they are smaller."""
        (count,) = self.shards.totals([sum(p.numel() for p in point)], point[0].device)
        return max(self.shards.norm(point), guard.FLOOR * math.sqrt(max(count, 1)))
