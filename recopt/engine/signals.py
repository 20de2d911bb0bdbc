"""The way up: fill the windows of the levels above the task, and close those that are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contracts.errors import RecoptError
from ..core.state import Record, RunState, Signal
from .tape import close, distance

if TYPE_CHECKING:
    from .engine import Engine


DEAF = 10
"""Updates below a level, in at least two windows, without any hypergradient: then it is taken for disconnected."""


class Collector:
    """Sends signals up through the levels of an engine.

    Attributes:
        slots: by level, what each of its subjects moves.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.graph, self.levels = engine, engine.graph, engine.levels
        self.slots = [[self.levels[m].moves for m in subjects] for subjects in self.graph.subjects]

    def collect(self, state: RunState, number: int) -> bool:
        """Fill level ``number``'s window with what came after the updates below; True if it is now full."""
        level, window = self.levels[number], state.levels[number].window
        subjects = self.graph.subjects[number]
        for m, records in zip(subjects, window.records, strict=True):
            signal = state.pending[m]
            if signal is None or not records or records[-1].loss is not None:
                continue
            if level.on == "valid":
                signal = self.engine.source.valid(state, m, signal)
            self._fill(number, records[-1], signal)
        full = sum(r.loss is not None for r in window.records[-1]) >= (level.every or 1)
        return full and state.pending[subjects[-1]] is not None

    def _fill(self, number: int, record: Record, signal: Signal) -> None:
        level = self.levels[number]
        record.loss = signal.loss
        restored = signal.bad is not None and bool(signal.bad.all())
        if not level.taping or signal.grads is None or restored or record.null:
            return
        # Second derivatives couple parameter groups: what one moves changes the gradient of the other.
        record.pairs = signal.pairs if level.second_order else list(zip(record.point, signal.grads, strict=True))

    def close(self, state: RunState, number: int) -> None:
        """The signal of a full window, to the levels that move the same slot; a new window begins."""
        engine, level, own = self.engine, self.levels[number], state.levels[number]
        weight = engine.teacher.weight(state, number)
        how = engine.truncation.closing_of(state, number, weight)
        moved = engine.slots.point(state, number)
        with torch.set_grad_enabled(how.exact):
            signal = close(level, own.window, self.slots[number], moved, how)
        if weight:
            engine.log(state, number + 1, {"imitation": distance(own.window)})
        self._heard(state, number, signal)
        if signal.grads is None:
            signal.grads = [torch.zeros_like(p) for p in moved]
        engine.budget.spend(engine.searcher.payer(state) or number, hypergradient=1)
        own.window = own.window.next(how.exact)
        self._deliver(state, number, signal)
        engine.truncation.cut(state, number)
        engine.episodes.close(state, number)

    def _heard(self, state: RunState, number: int, signal: Signal) -> None:
        """Refuse a level that never had a hypergradient.

        A rule may use a hyperparameter only from some step on (Adam's betas from its second), so a few updates are
        not enough to tell.
        """
        own, level = state.levels[number], self.levels[number]
        if own.deaf < 0:
            return
        again = own.deaf > 0
        own.deaf = own.deaf + (level.every or 1) if signal.grads is None else -1
        if again and own.deaf >= DEAF:
            names = [self.graph.names[level.moves][i] for i in self.engine.slots.index(state, number)]
            raise RecoptError(
                f"Level {number + 1} gets no hypergradient: the updates of '{level.moves}' do not depend on "
                f"{', '.join(names)}. "
                "Read the parameters inside the strategy's forward, without detaching them."
            )

    def _deliver(self, state: RunState, number: int, signal: Signal) -> None:
        """Hand a level its own signal, past the guard of the slot that it moves."""
        level = self.levels[number]
        absolute = level.objective in ("mean", "sum", "last")
        loss, bad, _ = self.engine.watcher.check(state, level.moves, signal.loss, signal.grads, absolute)
        if bad is not None:
            signal = Signal(loss, [torch.zeros_like(g) for g in signal.grads or []], [], signal.bound, bad)
        state.pending[number] = signal
