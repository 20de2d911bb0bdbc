"""The way down: each level that has a signal steps what it moves, the highest first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from operator import add
from typing import Any

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.parts import Part
from ..levels.state import Record, RunState, Signal
from ..rules.answers import given
from ..rules.tensors import TensorMover
from . import guard
from .bottom import Bottom
from .carriers import Carriers, Place
from .evaluation import Around, Evaluation, Moved, Trials
from .forward import Forward
from .limits import Limits
from .slots import Slots
from .windows import Windows

Step = Callable[[RunState, int, Signal, Evaluation, float], None]


class Numeric:
    """Steps a level that moves the numbers of another strategy's slot, by its rule's text on floats."""

    def __init__(self, place: Place, limits: Limits, windows: Windows, around: Around | None) -> None:
        self.place, self.limits, self.windows, self.around = place, limits, windows, around

    def __call__(self, state: RunState, number: int, signal: Signal, found: Evaluation, scale: float) -> None:
        """One step; an update that is not finite is left out."""
        place, own = self.place, state.levels[number]
        level, mover, index, part = place.level, place.mover, place.indices, own.parts[0]
        slot: Any = state.slots[level.moves]
        by: Any = state.slots[level.by]
        point = [slot.coords[i] for i in index]
        read, normal = place.normalize(signal.grads or [], part.normal, signal.bound)
        update = mover.step(part, point, read, by.value)
        if update is None:
            guard.skip_level(number, own)
            return
        part.normal = normal
        if level.trust is not None:
            limit, length = level.trust * math.sqrt(len(update)), math.hypot(*update)
            update = [u * (limit / length) for u in update] if length > limit else update
        over = guard.excess([update[i] for i in place.bounded]) if level.guard else 1.0
        if over != 1.0:
            update = mover.shorten(part, update, 1 / over)
            self.limits.bounded(state, number, 1 / over, own.counts)
        if level.schedule != "constant" and self.around is not None:
            update = mover.shorten(part, update, self.around.factors(state, number)[0])
        place.space.put(slot, index, list(map(add, point, update)))
        if place.noted:
            self.windows.note(state, number)
        if self.around is not None:
            self.around.stepped(state, number, signal, update, read)


class Down:
    """Steps the levels of a tower.

    Attributes:
        trials: whoever tries points for zero-order levels.
    """

    def __init__(
        self, carriers: Carriers, slots: Slots, bottom: Bottom, windows: Windows, around: Around | None
    ) -> None:
        self.carriers, self.slots, self.bottom, self.windows, self.around = carriers, slots, bottom, windows, around
        self.levels = carriers.levels
        self.forward = Forward(carriers, slots, bottom.limits, around)
        self.trials: Trials | None = None
        self._steps = [self._step_of(n) for n in range(len(self.levels))]

    def __call__(self, state: RunState, number: int, found: Evaluation, scale: float) -> None:
        """Step level ``number`` if it has a signal; one that tries points then tries the next.

        Args:
            scale: on the updates of levels that move the task, besides those of guard and schedule.
        """
        signal, step = state.pending[number], self._steps[number]
        if step and signal and not signal.void and (not state.resets or self.levels[number].moves not in state.resets):
            step(state, number, signal, found, scale)
            state.levels[number].steps += 1
            if number not in self.carriers.places and self.forward.looking.closely(state, number):
                self.forward.looking.sound(state, number)
        if self.levels[number].tries and self.levels[number].moves != TASK:
            self._try(state, number)

    def _step_of(self, number: int) -> Step | None:
        """The way in which a level steps; None for one that tries points and is scored by what comes after them."""
        level, place = self.levels[number], self.carriers.places.get(number)
        if level.gradient == "value":
            return self._tried if level.moves == TASK else None
        if place is not None:
            return Numeric(place, self.bottom.limits, self.windows, self.around)
        return self._columns if number in self.carriers.columns else self._tensors

    def _try(self, state: RunState, number: int) -> None:
        """Let a level try a point, if it may."""
        if self.trials is not None and self.trials.due(number):
            if self._steps[number] is None:  # noted first, so that the state to come back to holds the note as well
                self.windows.note(state, number)
            self.trials.begin(number)

    def _factors(self, state: RunState, number: int, scale: float) -> list[float]:
        """The factor on the next update, per task."""
        task = self.levels[number].moves == TASK
        factors = [scale] if task else [1.0]
        if task and state.guard is not None and self.levels[number].guard:
            factors = [scale * own.shrink for own in state.guard.tasks]
        if self.around is None or self.levels[number].schedule == "constant":
            return factors
        schedule = self.around.factors(state, number)
        longest = max(len(factors), len(schedule))
        return [f * s for f, s, _ in zip(cycle(factors), cycle(schedule), range(longest), strict=False)]

    def _columns(self, state: RunState, number: int, signal: Signal, found: Evaluation, scale: float) -> None:
        """A rule moves the task in place."""
        assert signal.grads is not None
        self.bottom.admit(state, number, signal.grads)
        update = list(torch._foreach_neg(self.slots.point(state, number))) if self.around is not None else []
        read = self.bottom.step(state, number, signal, self._factors(state, number, scale)[0])
        self.windows.note(state, number)
        if self.around is not None:
            torch._foreach_add_(update, self.slots.point(state, number))  # what there is now, less what there was
            self.around.stepped(state, number, signal, update, read)

    def _tensors(self, state: RunState, number: int, signal: Signal, found: Evaluation, scale: float) -> None:
        """A strategy's ``forward`` moves tensors."""
        own = state.levels[number]
        assert signal.grads is not None
        if self.levels[number].moves == TASK:
            self.bottom.admit(state, number, signal.grads)
        draws, rng = self.carriers.draws[number], Generator()
        if draws:
            rng.set_state(own.rng)
        go = partial(self.forward.step, state, number, factors=self._factors(state, number, scale), rng=rng)
        moved = self.windows.carried.along(state, number, signal, go) if self.windows.carried.numbers else go(signal)
        if draws:
            own.rng = rng.get_state()
        if moved is None:
            guard.skip_level(number, own)
            return
        lessons = self.around.lessons(state, number, signal, moved) if self.around is not None else {}
        self._note(state, number, signal, moved, lessons)
        if self.around is not None:
            self.around.stepped(state, number, signal, moved.update, moved.read)

    def _note(self, state: RunState, number: int, signal: Signal, moved: Moved, lessons: Any) -> None:
        def record(n: int) -> Record:
            level, lesson = self.levels[n], lessons.get(n, [])
            keep = level.taping
            # What nobody reads is not kept: a window's tensors are too many for a cache.
            update = list(moved.update) if level.penalty_update or (keep and level.normalize == "cosine") else []
            point = list(moved.point) if keep and not level.second_order else []
            if not keep:
                update, lesson = trees.detach(update), trees.detach(lesson)
            return Record(point, update, lesson=lesson, made_of=moved.made_of if keep else None)

        self.windows.note(state, number, record)

    def _tried(self, state: RunState, number: int, signal: Signal, found: Evaluation, scale: float) -> None:
        """A zero-order strategy moves the task, by losses at points of its own choice."""
        level, own, mover = self.levels[number], state.levels[number], self.carriers.movers[number]
        assert isinstance(mover, TensorMover) and found.scores is not None
        point = self.forward.held(state, number)
        self.bottom.admit(state, number, point)
        rng, new, loss = Generator(), list(point), signal.loss
        rng.set_state(own.rng)
        values = trees.detach(self.slots.strategy(state, level.by))
        tasks, looking = self.carriers.tasks[number], self.forward.looking
        for part in own.parts:
            at = partial(_scores, found.scores, number, new, part)
            mine = [new[i] for i in part.indices]
            inputs = given(values, mine, part.strategy) if looking.closely(state, number) else ([], [])
            with torch.no_grad():
                update, part.strategy = mover.search(values, mine, loss, at, part.strategy, rng, tasks)
            looking.unchanged(number, *inputs)
            looking.fitting(number, update, mine)
            if all(bool(torch.isfinite(u).all()) for u in update):
                new = _with(new, part, [p + u for p, u in zip(mine, update, strict=True)])
            loss = None  # of where the others have moved from
        own.rng = rng.get_state()
        self.slots.put(state, number, new)
        self.windows.note(state, number)
        if self.around is not None:
            self.around.stepped(state, number, signal, [a - b for a, b in zip(new, point, strict=True)], None)


def _with(point: Params, part: Part, mine: Params) -> Params:
    """``point`` with the tensors of ``part`` at ``mine``."""
    moved = dict(zip(part.indices, mine, strict=True))
    return [moved.get(i, p) for i, p in enumerate(point)]


def _scores(
    scores: Callable[[int, Sequence[Params]], Sequence[Tensor]], number: int, point: Params, part: Part,
    each: Sequence[Params],
) -> Sequence[Tensor]:  # fmt: skip
    """The losses with the tensors of ``part`` at each of several values."""
    return scores(number, [_with(point, part, mine) for mine in each])
