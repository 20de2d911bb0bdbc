"""The way up: evaluate the task, fill the windows of the levels above, and close those that are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import tree
from .errors import RecoptError
from .level import TASK
from .state import LevelState, Record, RunState, Signal, Window
from .strategy import Params
from .tape import Closing, close, distance

if TYPE_CHECKING:
    from .engine import Engine


DEAF = 10
"""Updates below a level, in at least two windows, without any hypergradient: then it is taken for disconnected."""


class Collector:
    """Sends signals from the task up through the levels of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.graph, self.levels = engine, engine.graph, engine.levels
        self.exact = [n for n, level in enumerate(self.levels) if level.second_order]
        self.under = {n: self.graph.below(n) for n in range(len(self.levels))}
        self.closing: set[int] = set()
        self.held_out: Signal | None = None

    def evaluate(self, state: RunState) -> None:
        """The task's loss and gradient at its present point, as the signal of the levels that move it."""
        engine, slot = self.engine, state.slots[TASK]
        self.closing = self._closing(state)
        self.held_out = None
        numbers = engine.movers[TASK]
        batch = engine.evaluator.batch(slot, slot.seen, "train")
        payer = engine.searcher.payer(state)
        grads: Params | None = None
        if any(self.graph.order(n) for n in numbers):
            loss, grads, slot.buffers = engine.evaluator.gradient(slot, batch, self._graph_needed(state))
            engine.budget.spend(payer, gradient=engine.tasks)
        else:
            with torch.no_grad():
                loss, slot.buffers = engine.evaluator.losses(slot, slot.params, batch)
            engine.budget.spend(payer, loss=engine.tasks)
        slot.seen += 1
        each = {"losses": loss.detach()} if engine.each else {}
        engine.log(state, 0, {"loss": loss.detach().mean() if loss.ndim else loss.detach(), **each})
        pairs = list(zip(slot.params, grads or [], strict=False)) if self.exact else []
        loss, bad, size = engine.watcher.check(state, TASK, loss, grads)
        if bad is not None and grads is not None:
            still = [bad.view(-1, *[1] * (g.ndim - 1)) if bad.ndim else bad for g in grads]
            grads = [torch.where(s, 0.0, g).detach() for s, g in zip(still, grads, strict=True)]
            pairs = [(t, g) for (t, _), g in zip(pairs, grads, strict=False)]
        for n in numbers:
            own = None if grads is None else [grads[i] for i in engine.index(state, n)]
            known = size if own is not None and len(own) == len(slot.params) else None
            state.pending[n] = Signal(loss, own, pairs, bad=bad, norm=known)

    def collect(self, state: RunState, number: int) -> bool:
        """Fill level ``number``'s window with what came after the updates below; True if it is now full."""
        level, window = self.levels[number], state.levels[number].window
        subjects = self.graph.subjects[number]
        for m, records in zip(subjects, window.records, strict=True):
            signal = state.pending[m]
            if signal is None or not records or records[-1].loss is not None:
                continue
            if level.on == "valid":
                signal = self._valid(state, m, signal)
            self._fill(number, m, records[-1], signal)
        full = sum(r.loss is not None for r in window.records[-1]) >= (level.every or 1)
        return full and state.pending[subjects[-1]] is not None

    def _fill(self, number: int, m: int, record: Record, signal: Signal) -> None:
        record.loss = signal.loss
        restored = signal.bad is not None and bool(signal.bad.all())
        if not self.engine.taping(number) or signal.grads is None or restored or record.null:
            return
        # Second derivatives couple parameter groups: what one moves changes the gradient of the other.
        exact = self.levels[number].second_order
        record.pairs = signal.pairs if exact else list(zip(record.point, signal.grads, strict=True))

    def _valid(self, state: RunState, m: int, signal: Signal) -> Signal:
        """The same on a held-out batch."""
        engine, slot = self.engine, state.slots[TASK]
        if self.held_out is None:
            batch = engine.evaluator.batch(slot, slot.seen - 1, "valid")
            payer = engine.searcher.payer(state)
            if any(self.graph.order(n) for n in engine.movers[TASK]):
                loss, grads, _ = engine.evaluator.gradient(slot, batch, self._graph_needed(state))
                engine.budget.spend(payer, gradient=engine.tasks)
            else:
                loss, grads = engine.evaluator.value(slot, slot.params, batch), []
                engine.budget.spend(payer, loss=engine.tasks)
            engine.log(state, 0, {"valid_loss": loss.detach().mean()})
            self.held_out = Signal(loss, grads, list(zip(slot.params, grads, strict=False)))
        held = self.held_out
        own = [held.grads[i] for i in engine.index(state, m)] if held.grads else None
        return Signal(held.loss, own, held.pairs, bad=signal.bad)

    # exact windows

    def _closing(self, state: RunState) -> set[int]:
        """The levels whose windows the coming evaluation will close."""
        arriving = set(self.engine.movers[TASK])
        found: set[int] = set()
        for number, level in enumerate(self.levels):
            if level.moves != TASK and self.graph.clock(number) in arriving:
                records = state.levels[number].window.records[-1]
                if len(records) >= (level.every or 1):
                    found.add(number)
                    arriving.add(number)
        return found

    def _graph_needed(self, state: RunState) -> bool:
        """Whether some level differentiates through this evaluation's gradient."""
        live = any(p.requires_grad for p in state.slots[TASK].params)
        tasks = set(self.engine.movers[TASK])
        return live and any(tasks & self.under[e] for e in self.exact if e not in self.closing)

    def close(self, state: RunState, number: int) -> None:
        """The signal of a full window, to the levels that move the same slot; a new window begins."""
        engine, level, own = self.engine, self.levels[number], state.levels[number]
        over = [e for e in self.exact if number in self.under[e]]
        # A search may come back to before this window closed, and close it again.
        others = any(n != number and engine.taping(n) for n in range(len(self.levels)))
        others = others or engine.searcher.active(state)
        weight = engine.teacher.weight(state, number)
        how = Closing(exact=any(e not in self.closing for e in over), keep=others, imitation=weight)
        moved = engine.point(state, number)
        with torch.set_grad_enabled(how.exact):
            signal = close(level, own.window, self.slots(number), moved, how)
        if weight:
            engine.log(state, number + 1, {"imitation": distance(own.window)})
        self._heard(state, number, signal)
        if signal.grads is None:
            signal.grads = [torch.zeros_like(p) for p in moved]
        engine.budget.spend(engine.searcher.payer(state) or number, hypergradient=1)
        own.window = self._next_window(own.window, how.exact)
        self._deliver(state, number, signal)
        if not over:
            self._cut(state, number)
        self.engine.episodes.close(state, number)

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
            names = [self.graph.names[level.moves][i] for i in self.engine.index(state, number)]
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

    def slots(self, number: int) -> list[str]:
        """What each subject of a level moves."""
        return [self.levels[m].moves for m in self.graph.subjects[number]]

    def _next_window(self, window: Window, exact: bool) -> Window:
        """The window that opens where ``window`` closes: this evaluation is its start."""
        starts: list[Record | None] = []
        for records, start in zip(window.records, window.start, strict=True):
            done = [r for r in records if r.loss is not None]
            last = Record([], [], done[-1].loss, done[-1].pairs) if done else start
            plain = Record([], [], last.loss.detach()) if last and last.loss is not None else None
            starts.append(last if exact else plain)
        # An update of a slower or faster subject may still wait for what comes after it.
        return Window([[x for x in r if x.loss is None] for r in window.records], starts)

    def _cut(self, state: RunState, number: int) -> None:
        """Truncate the tape below a level, except where another level's window is still open over it."""
        engine, exact = self.engine, self.levels[number].second_order
        open_ = [
            n
            for n in range(len(self.levels))
            if n != number and engine.taping(n) and any(state.levels[n].window.records)
        ]
        for m in self.under[number] if exact else set(self.graph.subjects[number]):
            needed = any(m in self.graph.subjects[n] or (exact and n in self.exact) for n in open_)
            if needed or state.pending[m] is None:
                continue
            name = self.levels[m].moves
            params = state.slots[name].params
            for i in engine.index(state, m):
                params[i] = params[i].detach()
            if name != TASK:
                engine.leaves(state, name)
            own = state.levels[m]
            own.strategy, own.normal = tree.detach(own.strategy), tree.detach(own.normal)
            engine.teacher.cut(state, m)
            pending = state.pending[m]
            if pending is not None:
                state.pending[m] = tree.detach(pending)

    def judged(self, state: RunState, number: int) -> None:
        """What follows when a zero-order level's window has closed."""
        self.reopen(state.levels[number])
        self.engine.episodes.close(state, number)

    def reopen(self, own: LevelState) -> None:
        """Begin a new window at the present evaluation, without a tape."""
        own.window = self._next_window(own.window, False)
