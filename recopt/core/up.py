"""The way up: what was found of the task, as the signal of every level that is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..levels.judgement import Guard, Verdict, count, judge
from ..levels.level import COSINES, TASK
from ..levels.state import RunState, Signal
from ..rules.columns import Sums
from ..rules.reading import Reading, read, shortened
from . import guard
from .bottom import Bottom
from .carriers import Carriers, Place
from .evaluation import Around, Evaluation, Trials
from .slots import Slots
from .windows import Other, Windows


class Lean:
    """The signals of one level above the task, made of its subjects' last updates and what came after them."""

    def __init__(self, carriers: Carriers, bottom: Bottom, number: int) -> None:
        graph, self.bottom, self.number = carriers.graph, bottom, number
        level = graph.levels[number]
        self.index = graph.moved(number, graph.names[level.moves])
        self.normalize = level.normalize
        self.subjects = [(m, carriers.places.get(m)) for m in graph.subjects[number]]

    def __call__(self, state: RunState, other: Other) -> Signal | None:
        """The derivative of what came after; None if nothing did."""
        total: list[float] | None = None
        loss, bound, pending = None, 0.0, state.pending
        for m, place in self.subjects:
            signal = pending[m]
            if signal is None or signal.bad is not None:
                continue
            if place is None:
                found, loss = self.bottom.slopes(state, m, signal), other(self.number, m, signal).loss
            else:
                found, loss = place.slopes(state, signal), signal.loss
            if found is None:
                continue
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
            if self.normalize in COSINES:
                bound += self._length(state, m, place, signal)
        if total is None:
            return None
        return Signal(loss, [total[i] for i in self.index], bound=bound)

    def _length(self, state: RunState, m: int, place: Place | None, signal: Signal) -> float:
        """‖update‖ ‖what came after it‖, which a cosine is measured by."""
        if self.normalize == "cosines":
            return self.bottom.slots.unit(state, m, signal)
        if place is not None:
            return place.mover.length(state.levels[m].parts[0]) * math.hypot(*(signal.grads or []))
        update = self.bottom.limits.last(state, m)
        return 0.0 if update is None else self.bottom.shards.norm(update) * (signal.norm or 0.0)


class Up:
    """Sends signals from the task to the top of a tower.

    Attributes:
        trials: whoever tries points for zero-order levels.
    """

    def __init__(
        self, carriers: Carriers, slots: Slots, bottom: Bottom, windows: Windows, around: Around | None
    ) -> None:
        self.carriers, self.slots, self.bottom, self.windows, self.around = carriers, slots, bottom, windows, around
        self.levels, self.tasks = carriers.levels, carriers.setting.tasks
        self.task_levels = carriers.graph.movers[TASK]
        uppers = [n for n, x in enumerate(self.levels) if x.moves != TASK]
        self.uppers = [(n, Lean(carriers, bottom, n) if carriers.lean[n] else None) for n in uppers]
        self._shortens = carriers.guarded and not self.tasks and not bottom.shards and not carriers.exact
        self.trials: Trials | None = None

    def __call__(self, state: RunState, found: Evaluation) -> int:
        """Send what was found of the task up; the number of levels that may now step, counted from the innermost."""
        state.good, some = self._judge(state, found)
        if some:
            self.bottom.fold(state)
        self._arrive(state, found, state.good, void=not some)
        other = partial(self._other, state, found)
        for number, lean in self.uppers:
            if lean is not None:
                signal = lean(state, other)
                closed = signal is not None
            elif not self.windows.collect(state, number, other):
                continue
            elif not self.levels[number].tries:
                signal, closed = self.windows.close(state, number), True
            else:
                if self.trials is not None and self.trials.judge(number):
                    return number
                state = state if self.trials is None else self.trials.state
                if self.levels[number].perturbs:
                    self._deliver(state, number, state.pending[number])
                continue
            self._deliver(state, number, signal)
            if lean is None:
                self.windows.tapes.cut(state, number)
            if closed and self.around is not None:
                self.around.closed(state, number)
        state.sums, state.held = {}, None
        return len(self.levels)

    def again(self, state: RunState, found: Evaluation) -> None:
        """Evaluate the task anew for the levels that move it, if the loss's parameters have moved since it was."""
        if found.again is not None and any(state.good) and (fresh := found.again()) is not None:
            self._arrive(state, fresh, state.good, void=False)

    def _judge(self, state: RunState, found: Evaluation) -> tuple[list[bool], bool]:
        """Judge each task's evaluation: good or not, and any; numbers are read at once, as a device is waited for."""
        reading = self._read(state, found)
        if math.isinf(reading.norms[0]) and self._shortens and found.grads:
            short = shortened(found.grads)
            if short is not None:
                found.grads, found.overflows = short, True
                reading = self._read(state, found)
        state.sums, state.norm = reading.sums, sum(reading.norms) / len(reading.norms)
        if state.guard is None:
            state.guard = Guard.empty(max(self.tasks, 1))
        before = {} if self.around is None else dict(state.guard.counts)
        verdicts = [Verdict.GOOD] * len(reading.norms)
        if found.grads and reading.losses and self.bottom.overshoot(state, found.grads, reading.losses[0]):
            verdicts = [Verdict.SKIP]
        elif self.carriers.guarded:
            verdicts = judge(state.guard, reading.losses, reading.norms, found.overflows)
        if Verdict.BACK in verdicts:
            self.bottom.limits.take_back(state, [v is Verdict.BACK for v in verdicts])
        good = [v is Verdict.GOOD for v in verdicts]
        return good, any(good) if self.around is None else self.around.judged(state, found, good, before)

    def _read(self, state: RunState, found: Evaluation) -> Reading:
        """Losses, norms, and the sums that closed derivatives need of the gradients they are measured against."""
        point = state.slots[TASK].params
        measured: dict[int, list[Sums]] = {}
        for n in self.carriers.descents:
            if self.bottom.measures(state, n):
                grads = found.grads if found.after is None else found.after
                if found.held is not None and any(self.levels[m].on == "valid" for m in self.carriers.above[n]):
                    grads = found.held().grads
                here = [] if not grads else [(point[i], grads[i]) for i in self.slots.index(state, n)]
                at = [torch.zeros_like(p) if g is None else g for p, g in here]
                measured[n] = self.bottom.measure(state, n, at)
        there = [g for g in found.grads or [] if g is not None]
        return read(there, found.loss, measured, self.bottom.shards, self.tasks)

    def _arrive(self, state: RunState, found: Evaluation, good: Sequence[bool], void: bool) -> None:
        """The evaluation as the signal of the levels that move the task."""
        loss, grads, pairs, bad = found.loss, found.grads, list(found.pairs), None
        if not all(good):
            assert state.guard is not None
            some = loss if loss is not None else next(g for g in grads or [] if g is not None)
            bad = torch.tensor([not g for g in good], device=some.device)
            bad = bad if self.tasks else bad.view(())
            loss = None if loss is None else guard.worst(state.guard, loss, bad)
            grads = None if grads is None else [None if g is None else _still(bad, g) for g in grads]
            pairs = [(t, _still(bad, g)) for t, g in pairs]
            found.cut(bad)
        alone = len(self.task_levels) == 1
        norm: float | None = state.norm if found.after is None else self.bottom.shards.norm(found.after)
        for n in self.task_levels:
            own = None if grads is None else [grads[i] for i in self.slots.index(state, n)]
            if not alone:  # a cosine is of a level's own tensors
                there = [g for g in own or [] if g is not None]
                norm = None if own is None or self.tasks else self.bottom.shards.norm(there)
            state.pending[n] = Signal(loss, own, pairs, norm=norm, bad=bad, void=void)
        if self.windows.carried.numbers:
            self.windows.carried.arrive(state, Signal(loss, list(grads or []), pairs, bad=bad))

    def _other(self, state: RunState, found: Evaluation, number: int, m: int, signal: Signal) -> Signal:
        """The signal of a level of the task for one above: on another loss than the training one, if that asks."""
        if found.after is not None:
            return replace(signal, grads=[found.after[i] for i in self.slots.index(state, m)], pairs=(), norm=None)
        if self.levels[number].on != "valid" or found.held is None:
            return signal
        held = found.held()
        own = None if held.grads is None else [held.grads[i] for i in self.slots.index(state, m)]
        return replace(signal, loss=held.loss, grads=own, pairs=list(held.pairs), norm=None)

    def _deliver(self, state: RunState, number: int, signal: Signal | None) -> None:
        """Hand a level its signal; one that is not finite is bad."""
        if signal is not None and signal.grads and not _finite(signal.grads):
            count(state.levels[number].counts, "skipped")
            signal = Signal(signal.loss, signal.grads, bad=torch.tensor(True), void=True)
        state.pending[number] = signal


def _finite(values: Sequence[Any]) -> bool:
    if isinstance(values[0], Tensor):
        return all(map(math.isfinite, torch.stack([v.detach().double().sum() for v in values]).tolist()))
    return math.isfinite(sum(values))


def _still(bad: Tensor, g: Tensor) -> Tensor:
    """``g`` with zeros where there is to be no step."""
    return torch.where(bad.view(-1, *[1] * (g.ndim - 1)), 0.0, g) if bad.ndim else torch.where(bad, 0.0, g).detach()
