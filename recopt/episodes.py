"""Fresh starts: after an episode a slot is drawn anew, with the states of what moves it and everything below."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import counts, guard, tree
from .errors import RecoptError
from .level import TASK
from .state import Record, RunState, Signal, SlotState, Start, Window

if TYPE_CHECKING:
    from .engine import Engine

KINDS = 16
"""Draws of a family that are looked at before a run: those after them are looked at when they are due."""


class Episodes:
    """Ends the episodes of an engine's slots, and begins new ones."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.levels = engine, engine.levels

    def check(self) -> None:
        """Refuse tasks that cannot start afresh by turns."""
        found = [number for number, level in enumerate(self.levels) if level.stagger]
        if not found:
            return
        where = f"Level {found[0] + 1}: 'stagger'"
        if not self.engine.evaluator.batched:
            raise RecoptError(f"{where} is for tasks side by side, and there is one: set tasks, as in --tasks 8.")
        self.engine.evaluator.check_kinds(range(KINDS))

    def close(self, state: RunState, number: int) -> None:
        """Note which slots are to start afresh, now that a window of level ``number`` has closed."""
        level = self.levels[number]
        length = level.length(state.slots[level.moves].age)
        if length is None:
            return
        if level.stagger:
            self._turns(state, number, length // (level.every or 1))
            return
        for m in self.engine.graph.subjects[number]:
            name = self.levels[m].moves
            # The window that closes now counts the update that waited for this evaluation.
            if state.slots[name].age >= length:
                if level.curriculum:
                    self.engine.log(state, number + 1, {"episode": state.slots[name].age})
                self._mark(state, name)

    def _turns(self, state: RunState, number: int, windows: int) -> None:
        """Note which tasks are to start afresh, one after another in the course of ``windows``, the last one first."""
        own, tasks = state.levels[number], self.engine.tasks
        before, own.phase = own.phase, own.phase + 1 / windows
        due = [n for n in range(tasks) if _laps(own.phase, n, tasks) > _laps(before, n, tasks)]
        state.due = sorted({*state.due, *due})
        own.phase %= 1

    def ages(self, state: RunState, name: str) -> list[int]:
        """Updates of a slot since it started afresh, as one number or, for tasks that do so by turns, one for each."""
        slot = state.slots[name]
        return [slot.seen - 1 - start.seen for start in slot.starts] or [slot.age]

    def begin(self, state: RunState, name: str) -> None:
        """On the way down: start afresh what is due."""
        if name in state.resets:
            self.afresh(state, name)
        elif name == TASK and state.due:
            self._renew(state)

    def _mark(self, state: RunState, name: str) -> None:
        """Mark a slot and all that its strategy moves."""
        if name in state.resets:
            return
        state.resets.append(name)
        for level in self.levels:
            if level.by == name:
                self._mark(state, level.moves)

    def _renew(self, state: RunState) -> None:
        """Start the tasks that are due afresh, and put their first signals in the place of their last ones.

        The evaluation that they need for it is one more than the others', as where a whole slot starts afresh.
        """
        engine, slot, places = self.engine, state.slots[TASK], state.due
        starts = [dataclasses.replace(start) for start in engine.evaluator.starts(slot)]
        for n in places:
            starts[n] = Start(n, starts[n].draw + 1, slot.seen - 1)
        draw = max(start.draw for start in starts)
        engine.evaluator.check_kinds([slot.draw, draw])
        part = engine.evaluator.fresh(draw, [starts[n] for n in places])
        index = torch.tensor(places, device=engine.device)
        first = self._first_signal(state, part)
        params, buffers = counts.replaced([slot.params, slot.buffers], [part.params, part.buffers], index, engine.tasks)
        state.slots[TASK] = dataclasses.replace(
            slot, params=params, buffers=buffers, draw=draw, version=slot.version + 1, starts=starts
        )
        for number in engine.movers[TASK]:
            self._renew_level(state, number, part, first, index)
        self._renew_guard(state, part, first, index)
        state.due = []

    def _first_signal(self, state: RunState, part: SlotState) -> Signal:
        """The loss and gradient of the tasks in ``part`` at their start."""
        engine, slot = self.engine, state.slots[TASK]
        batch, payer = engine.evaluator.batch(part, slot.seen - 1, "train"), engine.searcher.payer(state)
        if any(engine.graph.order(n) for n in engine.movers[TASK]):
            loss, grads, part.buffers = engine.evaluator.gradient(part, batch, False)
            engine.budget.spend(payer, gradient=len(part.starts))
            return Signal(loss, grads)
        with torch.no_grad():
            loss, part.buffers = engine.evaluator.losses(part, part.params, batch)
        engine.budget.spend(payer, loss=len(part.starts))
        return Signal(loss)

    def _renew_level(self, state: RunState, number: int, part: SlotState, first: Signal, index: Tensor) -> None:
        """Start what belongs to a level afresh for the tasks in ``part``."""
        engine, own, pending = self.engine, state.levels[number], state.pending[number]
        where = engine.index(state, number)
        strategy = engine.graph.slots[self.levels[number].by]
        points = tree.unstack([part.params[i].detach() for i in where], len(index))
        own.strategy = counts.renewed(own.strategy, strategy, points, index, engine.tasks)
        own.normal = counts.cleared(own.normal, index, engine.tasks)
        engine.teacher.renew(state, number, points, index)
        own.before, own.score = None, None
        assert pending is not None
        loss = pending.loss.index_copy(0, index, first.loss.to(pending.loss))
        grads = pending.grads and [
            g.index_copy(0, index, (first.grads or [])[i]) for i, g in zip(where, pending.grads, strict=True)
        ]
        bad = None if pending.bad is None else pending.bad.index_fill(0, index, False)
        state.pending[number] = Signal(loss, grads, bad=bad)
        for n in engine.above(number):
            k, window = engine.graph.subjects[n].index(number), state.levels[n].window
            start = window.start[k]
            if start is not None and start.loss is not None:
                pairs = [(t, c.index_fill(0, index, 0.0)) for t, c in start.pairs]
                window.start[k] = Record([], [], start.loss.index_copy(0, index, first.loss.to(start.loss)), pairs)

    def _renew_guard(self, state: RunState, part: SlotState, first: Signal, index: Tensor) -> None:
        """Guard the tasks in ``part`` as if they were alone; where their first loss is bad, they do not step."""
        guarded = state.guards.get(TASK)
        if guarded is None:
            return
        states = [tree.tree_map(lambda leaf: leaf[index], state.levels[n].strategy) for n in self.engine.movers[TASK]]
        fresh, norms = guard.start(part.params, states, len(index)), tree.norm(first.grads or [], batched=True)
        losses, sizes = first.loss.tolist(), norms.tolist() if first.grads else [0.0] * len(index)
        wrong = guard.bad(fresh, losses, sizes)
        fresh = guard.judged(fresh, wrong, losses, part.params, states)
        state.guards[TASK] = guard.replaced(guarded, fresh, state.due, index)
        if not any(wrong):
            return
        stuck = index[torch.tensor(wrong, device=index.device)]
        for number in self.engine.movers[TASK]:
            pending = state.pending[number]
            assert pending is not None
            grads = pending.grads and [g.index_fill(0, stuck, 0.0) for g in pending.grads]
            bad = torch.zeros_like(pending.loss, dtype=torch.bool) if pending.bad is None else pending.bad
            loss = pending.loss.index_fill(0, stuck, guard.EXPLODE)
            state.pending[number] = Signal(loss, grads, bad=bad.index_fill(0, stuck, True))

    def afresh(self, state: RunState, name: str) -> None:
        """Draw a slot anew: its value, the states of the levels that move it, and everything below."""
        engine, slot = self.engine, state.slots[name]
        draw = slot.draw + 1
        if name == TASK:
            state.due = []
            state.slots[name] = engine.evaluator.fresh(draw)
            state.slots[name].version = slot.version + 1
        else:
            fresh = engine.graph.slots[name].afresh(engine.seed, draw).to(engine.device, engine.dtype)
            state.slots[name] = SlotState(
                [p.detach() for p in fresh.parameters()], [], draw=draw, version=slot.version + 1
            )
            engine.leaves(state, name)
        state.guards.pop(name, None)
        for number in engine.movers[name]:
            own = state.levels[number]
            own.strategy, own.normal = engine.init(state, number), {}
            own.before, own.score, own.search = None, None, None
            for n in engine.above(number):
                state.levels[n].window = Window.empty(len(engine.graph.subjects[n]))
                state.levels[n].phase = 0.0
                state.levels[n].taught.pop(number, None)


def _laps(phase: float, place: int, tasks: int) -> int:
    """Episodes that the task in ``place`` has ended, being ``place / tasks`` of an episode ahead of the first."""
    return math.floor(phase + place / tasks + 1e-6)
