"""The way up: what was found of the task, as the signal of every level that is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.state import RunState, Signal
from ..rules.reading import Reading, read, shortened
from . import guard
from .bottom import Bottom
from .carriers import Carriers
from .evaluation import Around, Evaluation, Trials
from .guard import Verdict
from .slots import Slots
from .windows import Windows


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
        self.uppers = [n for n, x in enumerate(self.levels) if x.moves != TASK]
        self._shortens = bottom.guarded and self.tasks == 1 and not bottom.shards and not carriers.exact
        self.trials: Trials | None = None

    def __call__(self, state: RunState, found: Evaluation) -> int:
        """Send what was found of the task up; the number of levels that may now step, counted from the innermost."""
        state.good = good = [v is Verdict.GOOD for v in self._judge(state, found)]
        self.bottom.fold(state, good)
        self._arrive(state, found, good)

        def other(number: int, m: int, signal: Signal) -> Signal:
            return self._other(state, found, (number, m), signal)

        leans, lean, slopes = self.carriers.lean, self.windows.lean, self._slopes
        for number in self.uppers:
            if leans[number]:
                signal = lean(state, number, slopes, other)
                self._deliver(state, number, signal)
                if signal is not None and self.around is not None:
                    self._closed(state, number)
            elif self.windows.collect(state, number, self._slopes, other):
                if self.levels[number].taping:
                    self._deliver(state, number, self.windows.close(state, number, self.around))
                    self.windows.cut(state, number)
                    self._closed(state, number)
                elif self.trials is not None:
                    if self.trials.judge(number):
                        return number
                    state = self.trials.state
        state.sums, state.held = {}, None
        return len(self.levels)

    def _judge(self, state: RunState, found: Evaluation) -> list[Verdict]:
        """Read all numbers of the evaluation at once, since each read from a device is a wait for it; then judge."""
        reading, overflows = self._read(state, found), False
        if math.isinf(reading.norms[0]) and self._shortens and found.grads:
            short = shortened(found.grads)
            if short is not None:
                found.grads, overflows = short, True
                reading = self._read(state, found)
        state.sums, state.norm = reading.sums, sum(reading.norms) / len(reading.norms)
        if state.guard is None:
            state.guard = guard.first(self.tasks)
        if not self.bottom.guarded:
            return [Verdict.GOOD] * self.tasks
        was, acts = guard.frozen(state.guard), dict(state.guard.counts)
        verdicts = guard.judge(state.guard, reading.losses, reading.norms, overflows)
        back = [v is Verdict.BACK for v in verdicts]
        if any(back):
            self.bottom.take_back(state, back)
        self._tell(state, acts, was)
        return verdicts

    def _read(self, state: RunState, found: Evaluation) -> Reading:
        """Losses, norms, and the sums that closed derivatives need."""
        grads = [g for g in found.grads or [] if g is not None]
        cotangents = found.after if found.after is not None else self._filled(state, found.grads)
        measured = {n: self.bottom.measure(state, n, self._cotangents(state, n, found, cotangents))
                    for n in self.bottom.numbers if self.bottom.measures(state, n)}  # fmt: skip
        return read(grads, found.loss, measured, self.bottom.shards, self.tasks)

    def _filled(self, state: RunState, grads: Sequence[Tensor | None] | None) -> Params:
        if grads is None:
            return []
        return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, state.slots[TASK].params, strict=True)]

    def _cotangents(self, state: RunState, number: int, found: Evaluation, usual: Params) -> Params:
        """The gradients that closed derivatives of a level of the task are measured against."""
        above = self.carriers.above[number]
        if found.held is not None and any(self.levels[n].on == "valid" for n in above):
            usual = self._filled(state, found.held().grads)
        return [usual[i] for i in self.slots.index(state, number)]

    def _tell(self, state: RunState, before: dict[str, int], was: Sequence[bool]) -> None:
        """Record what the guard did, with how often it did so far."""
        assert state.guard is not None
        acts: dict[str, Any] = {k: n for k, n in state.guard.counts.items() if n != before.get(k, 0)}
        now = guard.frozen(state.guard)
        if now != list(was):
            acts["frozen"] = sum(now)
        if acts and self.around is not None:
            self.around.log(state, self.task_levels[0], acts)

    def _arrive(self, state: RunState, found: Evaluation, good: Sequence[bool]) -> None:
        """The evaluation as the signal of the levels that move the task."""
        loss, grads, pairs, bad = found.loss, found.grads, list(found.pairs), None
        if not all(good):
            assert state.guard is not None
            some = loss if loss is not None else next(g for g in grads or [] if g is not None)
            bad = torch.tensor([not g for g in good], device=some.device)
            bad = bad.view(()) if self.tasks == 1 else bad
            loss = None if loss is None else guard.worst(state.guard, loss, bad)
            grads = None if grads is None else [None if g is None else _still(bad, g) for g in grads]
            pairs = [(t, _still(bad, g)) for t, g in pairs]
        norm = state.norm if found.after is None else self.bottom.shards.norm(found.after)
        for n in self.task_levels:
            own = None if grads is None else [grads[i] for i in self.slots.index(state, n)]
            known = norm if len(self.task_levels) == 1 else self._norm(own)
            state.pending[n] = Signal(loss, own, pairs, norm=known, bad=bad)

    def _norm(self, own: Sequence[Tensor | None] | None) -> float | None:
        """The norm of what one of several levels reads, of one task: a cosine is of its tensors alone."""
        if own is None or self.tasks > 1:
            return None
        return self.bottom.shards.norm([g for g in own if g is not None])

    def _other(self, state: RunState, found: Evaluation, where: tuple[int, int], signal: Signal) -> Signal:
        """The signal of a level of the task for one above: on another loss than the training one, if that asks."""
        number, m = where
        if found.after is not None:
            return Signal(signal.loss, [found.after[i] for i in self.slots.index(state, m)], bad=signal.bad)
        if self.levels[number].on != "valid" or found.held is None:
            return signal
        held = found.held()
        own = None if held.grads is None else [held.grads[i] for i in self.slots.index(state, m)]
        return Signal(held.loss, own, list(held.pairs), bad=signal.bad)

    def _slopes(self, state: RunState, number: int) -> list[float] | None:
        return self.bottom.slopes(state, number, state.sums.get(number, []))

    def _reach(self, state: RunState, number: int) -> float:
        update = self.bottom.last(state, number)
        return 0.0 if update is None else self.bottom.shards.norm(update)

    def _deliver(self, state: RunState, number: int, signal: Signal | None) -> None:
        """Hand a level its signal, if it is finite."""
        if signal is not None and not _finite(signal.grads):
            own = state.levels[number]
            own.counts["skipped"] = own.counts.get("skipped", 0) + 1
            signal = Signal(signal.loss, signal.grads, bad=torch.tensor(True))
        state.pending[number] = signal

    def _closed(self, state: RunState, number: int) -> None:
        if self.around is not None:
            self.around.closed(state, number)


def _finite(values: Sequence[Any] | None) -> bool:
    if not values:
        return True
    if isinstance(values[0], Tensor):
        return bool(torch.isfinite(torch.stack([v.detach().double().sum() for v in values])).all())
    return math.isfinite(sum(values))


def _still(bad: Tensor, g: Tensor) -> Tensor:
    """``g`` with zeros where there is to be no step; without its graph if not all of it is finite."""
    where = bad.view(-1, *[1] * (g.ndim - 1)) if bad.ndim else bad
    still = torch.where(where, 0.0, g)
    return still if torch.isfinite(g).all() else still.detach()
