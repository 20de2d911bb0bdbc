"""The levels that move the task: in place by columns, or by any strategy on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.averages import folded, share
from ..levels.level import TASK
from ..levels.registry import TRANSFORMS
from ..levels.state import Part, RunState, Signal, Window
from ..rules.columns import ColumnMover, Sums
from ..rules.shards import Shards
from ..rules.tensors import TensorMover
from . import guard
from .carriers import Carriers
from .slots import Slots


class Bottom:
    """Steps the levels that move the task.

    Args:
        shards: how the task's tensors are split over processes.
    """

    def __init__(self, carriers: Carriers, slots: Slots, shards: Shards) -> None:
        self.carriers, self.slots, self.shards = carriers, slots, shards
        self.levels, self.setting = carriers.levels, carriers.setting
        self.numbers = [n for n, x in enumerate(self.levels) if x.moves == TASK and carriers.graph.order(n)]
        self.guarded = any(self.levels[n].guard for n, x in enumerate(self.levels) if x.moves == TASK)

    def columns(self, number: int) -> ColumnMover | None:
        """The mover of a level, if it moves the task in place without a tape."""
        mover = self.carriers.movers[number]
        return mover if isinstance(mover, ColumnMover) else None

    def by(self, state: RunState, number: int) -> Any:
        """The slot of a level's strategy."""
        return state.slots[self.levels[number].by]

    # what came before

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
            own.parts.append(Part(fresh, self.slots.state_at(state, number, fresh)))

    def measures(self, state: RunState, number: int) -> bool:
        """True if closed derivatives of a level's updates are asked for, and there are any."""
        mover = self.columns(number)
        return mover is not None and bool(mover.moved) and any(part.recorded for part in state.levels[number].parts)

    def measure(self, state: RunState, number: int, cotangents: Params) -> list[Sums]:
        """The sums that closed derivatives need of the tensors, part by part."""
        mover = self.columns(number)
        assert mover is not None
        point, numbers = self.slots.point(state, number), self.by(state, number)
        return [mover.measure(part, _of(part, point), _awake(part, _of(part, cotangents)), numbers)
                for part in state.levels[number].parts]  # fmt: skip

    def slopes(self, state: RunState, number: int, sums: Sequence[dict[str, float]]) -> list[float] | None:
        """The derivative, by its strategy's coordinates, of the loss that came after; None: nothing is recorded."""
        mover, numbers = self.columns(number), self.by(state, number)
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

    def recorded(self, state: RunState, number: int) -> int:
        """Updates in the present window, in the oldest part."""
        parts = state.levels[number].parts
        return parts[0].recorded if parts else 0

    # taking back

    def last(self, state: RunState, number: int) -> Params | None:
        """The last update of a level that moves the task by columns, zero where there was none; None if not known."""
        own, point, mover = state.levels[number], self.slots.point(state, number), self.columns(number)
        out: Params | None = None
        for part in own.parts:
            found = part.kept.get("cut")
            if found is None and mover is not None:
                found = mover.last(part, _of(part, point), self.by(state, number))
            if found is not None:
                out = [torch.zeros_like(p) for p in point] if out is None else out
                for i, u in zip(part.indices, _awake(part, found), strict=True):
                    out[i] = u
        return out

    def _before(self, state: RunState, number: int) -> Params | None:
        """The point before a level's last update; None if it is not known."""
        point, update = trees.detach(self.slots.point(state, number)), self.last(state, number)
        if update is not None:
            return [p - u for p, u in zip(point, update, strict=True)]
        known = {i: p for part in state.levels[number].parts
                 for i, p in zip(part.indices, part.kept.get("point", []), strict=False)}  # fmt: skip
        return [known.get(i, p) for i, p in enumerate(point)] if known and self.columns(number) is None else None

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
            part.kept.pop("cut" if self.columns(number) is not None else "point", None)
        if self.setting.tasks > 1:
            return  # the windows of the other tasks go on
        for part in own.parts:
            part.strategy, part.normal = trees.detach(part.strategy), trees.detach(part.normal)
        for n in self.carriers.above[number]:
            state.levels[n].window = Window.empty(len(self.carriers.graph.subjects[n]))

    # means

    def fold(self, state: RunState, good: Sequence[bool]) -> None:
        """Take the present point, which turned out to be good, into the means that levels keep."""
        for number in self.numbers:
            decay = self.levels[number].average
            if decay is None or not any(good):
                continue
            point = self.slots.point(state, number)
            for part in state.levels[number].parts:
                mine, weight = [p.detach() for p in _of(part, point)], share(decay, part.folds + 1)
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
                mine = _of(part, point)
                if level.average is not None:
                    mine = folded(part.mean, mine, level.average, part.folds + 1)
                elif strategy.keeps_mean():
                    values = [p.detach() for p in self.by(state, number).params]
                    asked = TensorMover(strategy)
                    mine = asked.eval_point(values, mine, trees.detach(part.strategy), self.setting.tasks)
                for i, value in zip(part.indices, mine, strict=True):
                    found[index[i]] = value
        return found

    # steps

    def step(self, state: RunState, number: int, signal: Signal, factor: float) -> Params:
        """One step of a level that moves the task by columns; what it read of ``signal``. ``factor``: on the update."""
        mover = self.columns(number)
        assert mover is not None and signal.grads is not None
        own, numbers = state.levels[number], self.by(state, number)
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
        self._keep_short(state, number, factor)
        return reads

    def _keep_short(self, state: RunState, number: int, factor: float) -> None:
        """Cut the last update back if it was a wild one, and lower the rate to match."""
        memory, rate, numbers = state.guard, self.carriers.rates[number], self.by(state, number)
        if memory is None or rate is None or not self.levels[number].guard:
            return
        if not guard.due(memory, number, numbers.coords[rate], state.norm, factor):
            return
        update, point = self.last(state, number), self.slots.point(state, number)
        if update is None or not self.recorded(state, number):
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
            for part in state.levels[number].parts if self.carriers.windows[number] > 1 else []:
                part.kept["cut"] = [whole[i] * keep for i in part.indices]  # which its rate no longer tells
        ratio = min(length / limit, 1.0)
        memory.checks[number] = (ratio, numbers.coords[rate], state.norm, memory.steps + 1, factor)

    def lower(self, state: RunState, number: int, keep: float) -> None:
        """The last update was only ``keep`` of what it was made: lower the rate likewise."""
        assert state.guard is not None
        guard.count(state.guard.counts, "bounded")
        self.lower_rate(state, number, keep)

    def lower_rate(self, state: RunState, number: int, keep: float) -> None:
        """Lower a level's rate, after an update that was shortened likewise; a window is at one rate."""
        rate, numbers = self.carriers.rates[number], self.by(state, number)
        assert rate is not None
        leaf = numbers.leaves[rate]
        self.carriers.spaces[self.levels[number].by].put(numbers, [rate], [numbers.coords[rate] + math.log(keep)])
        if self.carriers.windows[number] == 1:
            numbers.leaves[rate] = leaf  # the open tape runs over what it was
            return
        self.forget(state, number)

    def size(self, point: Params) -> float:
        """The norm of tensors that a level moves, or of tensors of a root mean square of FLOOR if they are smaller."""
        (count,) = self.shards.totals([sum(p.numel() for p in point)], point[0].device)
        return max(self.shards.norm(point), guard.FLOOR * math.sqrt(max(count, 1)))


def _of(part: Part, values: Sequence[Any]) -> list[Any]:
    """Those of a level's ``values`` that are in ``part``."""
    return [values[i] for i in part.indices]


def _awake(part: Part, values: Params) -> Params:
    """``values``, one for each tensor of ``part``, with zeros for those that stayed where they were."""
    idle = set(part.idle)
    return [torch.zeros_like(v) if k in idle else v for k, v in enumerate(values)] if idle else values


def present(part: Part, point: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Params, Params]:
    """The tensors of ``part`` with their gradients, both empty if there are none.

    Tensors without a gradient are to stay as they are: a copy stands in for each, and zeros for its gradient.
    """
    have = [grads[i] is not None for i in part.indices]
    part.idle = [k for k, there in enumerate(have) if not there]
    if not any(have):
        return [], []
    if not part.idle:
        return [point[i] for i in part.indices], [g for i in part.indices if (g := grads[i]) is not None]
    mine = [point[i] if there else point[i].detach().clone() for i, there in zip(part.indices, have, strict=True)]
    known = [grads[i] for i in part.indices]
    return mine, [torch.zeros_like(p) if g is None else g for g, p in zip(known, mine, strict=True)]
