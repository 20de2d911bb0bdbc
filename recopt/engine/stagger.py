"""Tasks side by side that start afresh by turns (``stagger``), so that each window holds tasks of all ages."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..core import counts, guard
from ..core.level import TASK
from ..core.state import Record, RunState, Signal, SlotState, Start

if TYPE_CHECKING:
    from .engine import Engine

KINDS = 16
"""Draws of a family that are looked at before a run: those after them are looked at when they are due."""


class Turns:
    """Starts single tasks of an engine afresh while the others go on.

    Raises:
        RecoptError: for tasks that cannot do so.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.levels, self.movers = engine, engine.levels, engine.graph.movers[TASK]
        found = [number for number, level in enumerate(self.levels) if level.stagger]
        if not found:
            return
        where = f"Level {found[0] + 1}: 'stagger'"
        if not engine.family.batched:
            raise RecoptError(f"{where} is for tasks side by side, and there is one: set tasks, as in --tasks 8.")
        engine.family.check_kinds(range(KINDS))

    def advance(self, state: RunState, number: int, windows: int) -> None:
        """Note which tasks are to start afresh, one after another in the course of ``windows``, the last one first."""
        own, tasks = state.levels[number], self.engine.tasks
        before, own.phase = own.phase, own.phase + 1 / windows
        due = [n for n in range(tasks) if _laps(own.phase, n, tasks) > _laps(before, n, tasks)]
        state.due = sorted({*state.due, *due})
        own.phase %= 1

    def renew(self, state: RunState) -> None:
        """Start the tasks that are due afresh, and put their first signals in the place of their last ones.

        The evaluation that they need for it is one more than the others', as where a whole slot starts afresh.
        """
        engine, slot, places = self.engine, state.slots[TASK], state.due
        starts = [dataclasses.replace(start) for start in engine.family.starts(slot)]
        for n in places:
            starts[n] = Start(n, starts[n].draw + 1, slot.seen - 1)
        draw = max(start.draw for start in starts)
        engine.family.check_kinds([slot.draw, draw])
        part = engine.family.fresh(draw, [starts[n] for n in places])
        index = torch.tensor(places, device=engine.device)
        first = engine.source.first(state, part)
        params, buffers = counts.replaced([slot.params, slot.buffers], [part.params, part.buffers], index, engine.tasks)
        state.slots[TASK] = dataclasses.replace(
            slot, params=params, buffers=buffers, draw=draw, version=slot.version + 1, starts=starts
        )
        for number in self.movers:
            self._renew_level(state, number, part, first, index)
        self._renew_guard(state, part, first, index)
        state.due = []

    def _renew_level(self, state: RunState, number: int, part: SlotState, first: Signal, index: Tensor) -> None:
        """Start what belongs to a level afresh for the tasks in ``part``."""
        engine, own, pending = self.engine, state.levels[number], state.pending[number]
        where = engine.slots.index(state, number)
        strategy = engine.graph.slots[self.levels[number].by]
        points = trees.unstack([part.params[i].detach() for i in where], len(index))
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
        for n in engine.graph.above[number]:
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
        states = [trees.tree_map(lambda leaf: leaf[index], state.levels[n].strategy) for n in self.movers]
        fresh, norms = guard.start(part.params, states, len(index)), trees.norm(first.grads or [], batched=True)
        losses, sizes = first.loss.tolist(), norms.tolist() if first.grads else [0.0] * len(index)
        wrong = guard.bad(fresh, losses, sizes)
        fresh = guard.judged(fresh, wrong, losses, part.params, states)
        state.guards[TASK] = guard.replaced(guarded, fresh, state.due, index)
        if not any(wrong):
            return
        stuck = index[torch.tensor(wrong, device=index.device)]
        for number in self.movers:
            pending = state.pending[number]
            assert pending is not None
            grads = pending.grads and [g.index_fill(0, stuck, 0.0) for g in pending.grads]
            bad = torch.zeros_like(pending.loss, dtype=torch.bool) if pending.bad is None else pending.bad
            loss = pending.loss.index_fill(0, stuck, guard.EXPLODE)
            state.pending[number] = Signal(loss, grads, bad=bad.index_fill(0, stuck, True))


def _laps(phase: float, place: int, tasks: int) -> int:
    """Episodes that the task in ``place`` has ended, being ``place / tasks`` of an episode ahead of the first."""
    return math.floor(phase + place / tasks + 1e-6)
