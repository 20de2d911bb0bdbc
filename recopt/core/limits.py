"""The guard's acts on updates: they are kept short, and those of the task are taken back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.judgement import count, kept, rose
from ..levels.level import TASK
from ..levels.state import RunState, Window
from ..rules.shards import Shards
from . import guard
from .carriers import Carriers
from .slots import Slots


class Limits:
    """Keeps updates of the task short, and takes them back."""

    def __init__(self, carriers: Carriers, slots: Slots, shards: Shards) -> None:
        self.carriers, self.slots, self.shards = carriers, slots, shards
        self.levels, self.setting = carriers.levels, carriers.setting

    def last(self, state: RunState, number: int) -> Params | None:
        """The last update of a level that moves the task by columns, zero where there was none; None if not known."""
        own, point, mover = state.levels[number], self.slots.point(state, number), self.carriers.columns.get(number)
        out: Params | None = None
        for part in own.parts:
            found = part.kept.get("cut")
            if found is None and mover is not None:
                found = mover.last(part, part.within(point), self.slots.numbers(state, number))
            if found is not None:
                out = [torch.zeros_like(p) for p in point] if out is None else out
                for i, u in zip(part.indices, part.awake(found), strict=True):
                    out[i] = u
        return out

    def before(self, state: RunState, number: int) -> Params | None:
        """The point before a level's last update; None if it is not known."""
        point, update = trees.detach(self.slots.point(state, number)), self.last(state, number)
        if update is not None:
            return [p - u for p, u in zip(point, update, strict=True)]
        known = {i: p for part in state.levels[number].parts
                 for i, p in zip(part.indices, part.kept.get("point", []), strict=False)}  # fmt: skip
        return [known.get(i, p) for i, p in enumerate(point)] if known and number not in self.carriers.columns else None

    def take_back(self, state: RunState, wrong: Sequence[bool]) -> None:
        """Take the last updates of the tasks that are ``wrong`` back, and shorten those to come."""
        assert state.guard is not None
        known = {n: before for n in self.carriers.descents if (before := self.before(state, n)) is not None}
        mask = torch.tensor(list(wrong) if self.setting.tasks else wrong[0])
        for number, before in known.items():
            point = trees.detach(self.slots.point(state, number))
            self.slots.put(state, number, trees.choose(mask.to(before[0].device), before, point))
            self.forget(state, number)
        for n, failed in enumerate(wrong):
            if known and failed:
                guard.taken_back(state.guard, n)

    def forget(self, state: RunState, number: int) -> None:
        """Drop a level's last update, and the windows over it: no signal is to be of what is not there any more."""
        own, alone = state.levels[number], not self.setting.tasks
        own.live = []
        for part in own.parts:
            part.recorded = 0
            part.kept.pop("cut" if number in self.carriers.columns else "point", None)
            if alone:
                part.detach()
        for n in self.carriers.above[number] if alone else []:  # the windows of other tasks go on
            window = state.levels[n].window
            state.levels[n].window = Window([[] for _ in window.records], window.next().start)

    def due(self, state: RunState, number: int, factor: float) -> bool:
        """True if the length of an update has to be looked at."""
        rate = self.carriers.rates[number]
        if state.guard is None or rate is None or not self.levels[number].guard:
            return False
        at = self.slots.numbers(state, number).coords[rate]
        return guard.due(state.guard, number, at, state.norm, factor)

    def measured(self, state: RunState, number: int, ratio: float, factor: float) -> None:
        """Note the length of an update over the longest allowed."""
        memory, rate = state.guard, self.carriers.rates[number]
        assert memory is not None and rate is not None
        at = self.slots.numbers(state, number).coords[rate]
        memory.checks[number] = (min(ratio, 1.0), at, state.norm, memory.steps + 1, factor)

    def keep_short(self, state: RunState, number: int, factor: float, before: Params | None) -> None:
        """Cut the last update back if it was a wild one, and lower the rate to match.

        ``before``: a copy of the point before it, where the rule does not keep what that is made of.
        """
        if state.guard is None or not self.due(state, number, factor):
            return
        point = self.slots.point(state, number)
        update = self.last(state, number) if before is None else torch._foreach_sub(point, before)
        if update is None or not any(part.recorded for part in state.levels[number].parts):
            return
        places = [i for part in state.levels[number].parts for i in part.indices]
        whole, update, point = update, [update[i] for i in places], [point[i] for i in places]
        length, limit = self.shards.norm(update), guard.REACH * self.size(state, number, point)
        if length > limit:
            torch._foreach_sub_(point, update)
            limit = guard.REACH * self.size(state, number, point)
            keep = min(1.0, limit / length)
            torch._foreach_add_(point, update, alpha=keep)
            self.bounded(state, number, keep, state.guard.counts)
            for part in state.levels[number].parts:
                if not part.recorded:  # its rate no longer tells
                    part.kept["cut"] = [whole[i] * keep for i in part.indices]
        self.measured(state, number, length / limit, factor)

    def bounded(self, state: RunState, number: int, keep: float, counts: dict[str, int]) -> None:
        """Count that only ``keep`` of an update was made, and lower the level's rate likewise, if that is tuned."""
        count(counts, "bounded")
        rate = self.carriers.rates[number]
        if rate is None:
            return
        numbers = self.slots.numbers(state, number)
        leaf = numbers.leaves[rate]
        self.carriers.spaces[self.levels[number].by].put(numbers, [rate], [numbers.coords[rate] + math.log(keep)])
        mover = self.carriers.columns.get(number)
        if self.carriers.windows[number] == 1 and (mover is None or mover.rule.linear == "lr"):
            numbers.leaves[rate] = leaf  # the open tape runs over what it was
        else:  # a window is at one rate; and updates that are no multiples of it would not have come out shorter
            self.forget(state, number)

    def size(self, state: RunState, number: int, point: Params) -> float:
        """The norm of tensors that a level moves, or of those of the least size that they are taken for."""
        least = guard.SIZELESS if state.guard and number in (state.guard.sizeless or ()) else guard.FLOOR
        (count,) = self.shards.totals([sum(p.numel() for p in point)], point[0].device)
        return max(self.shards.norm(point), least * math.sqrt(max(count, 1)))


class Overshoot:
    """Judges the first steps of tensors that begin at zero by the losses, since their size says nothing of a step's."""

    def __init__(self, carriers: Carriers, slots: Slots, limits: Limits) -> None:
        self.carriers, self.slots, self.limits = carriers, slots, limits

    def __call__(self, state: RunState, grads: Sequence[Tensor | None], loss: float) -> bool:
        """True if the last step overshot: it is cut to where the line through it is lowest, and the rate likewise."""
        memory = state.guard
        assert memory is not None
        if memory.sizeless is None:
            memory.sizeless = [n for n in self.carriers.descents if self._at_zero(state, n)]
        if not memory.sizeless or not rose(memory.tasks[0], loss):
            return False
        steps = {n: before for n in memory.sizeless if (before := self.limits.before(state, n)) is not None}
        ways = {n: torch._foreach_sub(self.slots.point(state, n), before) for n, before in steps.items()}
        mine = {n: [grads[i] for i in self.slots.index(state, n)] for n in ways}
        keep = kept(memory.tasks[0], loss, sum(self.limits.shards.inner(way, mine[n]) for n, way in ways.items()))
        for n, way in ways.items() if keep < 1 else ():
            self.limits.bounded(state, n, keep, memory.counts)
            self._leave(state, n, steps[n], [w.detach() * keep for w in way])
        memory.tasks[0].back += keep < 1
        return keep < 1

    def _at_zero(self, state: RunState, number: int) -> bool:
        """True if a level's rate is tuned, and what it moves is nearly zero."""
        tuned = self.carriers.rates[number] is not None and self.carriers.levels[number].guard
        point = self.slots.point(state, number)
        return tuned and self.limits.shards.norm(point) <= guard.ZERO * self.limits.size(state, number, point)

    def _leave(self, state: RunState, number: int, before: Params, way: Params) -> None:
        """Leave only ``way`` of a level's last step from the point ``before``."""
        self.slots.put(state, number, [b + w for b, w in zip(before, way, strict=True)])
        self.limits.forget(state, number)
        self.slots.cut(state, number)  # the tape over the rate that it was
        key, values = ("cut", way) if number in self.carriers.columns else ("point", before)
        for part in state.levels[number].parts:
            part.kept[key] = part.within(values)


class Cutting:
    """Measures updates of tensors before they are made, as :meth:`Limits.keep_short` does after it."""

    def __init__(self, carriers: Carriers, slots: Slots, limits: Limits) -> None:
        self.carriers, self.slots, self.limits, self.levels = carriers, slots, limits, carriers.levels

    def kept(self, state: RunState, number: int, point: Params, update: Params, factor: float) -> float:
        """The part of the update that is kept if it is a wild one, with the rate lowered to match; 1 otherwise."""
        level = self.levels[number]
        space = self.carriers.spaces.get(level.moves)
        if level.guard and space is not None:
            deltas: list[float] = torch.stack([u.detach().double() for u in update]).tolist()
            index = self.slots.index(state, number)
            keep = 1 / guard.excess(delta for delta, i in zip(deltas, index, strict=True) if space.bounded[i])
            if keep < 1:
                self.limits.bounded(state, number, keep, state.levels[number].counts)
            return keep
        if level.moves != TASK or state.guard is None or not self.limits.due(state, number, factor):
            return 1.0
        places = [i for part in state.levels[number].parts for i in part.indices]
        mine, steps = ([values[i].detach() for i in places] for values in (point, update))
        ratio, keep = self._ratio(state, number, mine, steps)
        if ratio > 1:
            self.limits.bounded(state, number, keep, state.guard.counts)
        self.limits.measured(state, number, ratio, factor)
        return keep

    def _ratio(self, state: RunState, number: int, point: Params, update: Params) -> tuple[float, float]:
        """The length of an update over the longest allowed, and what may be kept of it."""
        length = self.limits.shards.norm(update)
        limit = guard.REACH * self.limits.size(state, number, [p + u for p, u in zip(point, update, strict=True)])
        if not length > limit:
            return (length / limit if math.isfinite(length) else 0.0), 1.0
        return length / limit, min(1.0, guard.REACH * self.limits.size(state, number, point) / length)
