"""Tasks side by side that start afresh by turns (``stagger``), so that each window holds tasks of all ages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..core.tower import Tower
from ..levels import counts
from ..levels.judgement import EXPLODE, TaskGuard, Verdict, judge
from ..levels.level import TASK
from ..levels.state import Record, RunState, Signal, SlotState, Start
from .family import Family
from .imitation import Imitation
from .source import Source

KINDS = 16
"""Draws of a family that are looked at before a run: those after them are looked at when they are due."""


class Stagger:
    """Starts single tasks afresh while the others go on.

    Raises:
        RecoptError: for tasks that cannot do so.
    """

    def __init__(self, tower: Tower, family: Family, source: Source, imitation: Imitation) -> None:
        self.tower, self.family, self.source, self.imitation = tower, family, source, imitation
        self.graph, self.levels = tower.graph, tower.graph.levels
        found = [number for number, level in enumerate(self.levels) if level.stagger]
        if not found:
            return
        where = f"Level {found[0] + 1}: 'stagger'"
        if not family.batched:
            raise RecoptError(f"{where} is for tasks side by side, and there is one: set tasks, as in --tasks 8.")
        family.check_kinds(range(KINDS))

    def advance(self, state: RunState, number: int, windows: int) -> None:
        """Note which tasks are to start afresh, one after another in the course of ``windows``, the last one first."""
        own, tasks = state.levels[number], self.family.total
        before, own.phase = own.phase, own.phase + 1 / windows
        due = [n for n in range(tasks) if _laps(own.phase, n, tasks) > _laps(before, n, tasks)]
        state.due = sorted({*state.due, *due})
        own.phase %= 1

    def renew(self, state: RunState) -> None:
        """Start the tasks that are due afresh, and put their first signals in the place of their last ones.

        The evaluation that they need for it is one more than the others', as where a whole slot starts afresh.
        """
        evaluations = 2 if any(map(self._is_held_out, range(len(self.levels)))) else 1
        self.source.pay(state, evaluations * len(state.due))
        slot, family = state.task, self.family
        slot.starts = [dataclasses.replace(start) for start in family.starts(slot)]
        for number in self.graph.movers[TASK]:
            self._open(state, number)
        if rows := [n - family.first for n in state.due if n in family.share]:
            self._renew(state, rows)
        (some,) = self.tower.setting.ranks.totals([sum(state.good)])
        for number in self.graph.movers[TASK]:
            if (pending := state.pending[number]) is not None:
                pending.void = not some
        state.due = []

    def _open(self, state: RunState, number: int) -> None:
        """Let the tasks of a level differ in the counts of its strategy; its last step is not taken back any more."""
        own, each = state.levels[number], (self.family.count, self.family.device)
        own.before, own.score = None, None
        for held in own.parts:
            held.strategy, held.normal = counts.counted((held.strategy, held.normal), *each)
            held.kept.pop("point", None)
        for n in self.graph.above[number]:
            taught = state.levels[n].taught
            taught |= {m: counts.counted(held, *each) for m, held in taught.items() if m == number}

    def _renew(self, state: RunState, places: Sequence[int]) -> None:
        """Start the tasks of this process in ``places``, counted from its first, afresh."""
        slot, starts = state.task, state.task.starts
        for n in places:
            starts[n] = Start(starts[n].place, starts[n].draw + 1, slot.seen - 1)
        draw = max(start.draw for start in starts)
        self.family.check_kinds([slot.draw, draw])
        part = self.family.fresh(draw, [starts[n] for n in places])
        index = torch.tensor(list(places), device=self.family.device)
        loss, grads = self.source.first(state, part)
        first = Signal(loss, grads)
        params, buffers = counts.replaced([slot.params, slot.buffers], [part.params, part.buffers], index,
                                          self.family.count)  # fmt: skip
        state.slots[TASK] = dataclasses.replace(
            slot, params=params, buffers=buffers, draw=draw, version=slot.version + 1, starts=starts
        )
        for number in self.graph.movers[TASK]:
            self._renew_level(state, number, part, first, index)
        self._renew_guard(state, first, places)

    def _renew_level(self, state: RunState, number: int, part: SlotState, first: Signal, index: Tensor) -> None:
        """Start what belongs to a level afresh for the tasks in ``part``."""
        own, pending = state.levels[number], state.pending[number]
        where = self.tower.slots.index(state, number)
        strategy = self.graph.slots[self.levels[number].by]
        points = trees.unstack([part.params[i].detach() for i in where], len(index))
        for held in own.parts:
            mine = [[point[i] for i in held.indices] for point in points]
            held.strategy = counts.renewed(held.strategy, strategy, mine, index, self.family.count)
            held.normal = counts.cleared(held.normal, index, self.family.count)
        self.imitation.renew(state, number, points, index)
        assert pending is not None
        loss = pending.loss.index_copy(0, index, first.loss.to(pending.loss))
        begun = [(first.grads or [])[i] for i in where] if pending.grads else []
        grads = pending.grads and [
            _replaced(g, new, index, self.family.count) for g, new in zip(pending.grads, begun, strict=True)
        ]
        bad = None if pending.bad is None else pending.bad.index_fill(0, index, False)
        state.pending[number] = Signal(loss, grads, bad=bad)
        for n in self.graph.above[number]:
            k, window = self.graph.subjects[n].index(number), state.levels[n].window
            start = window.start[k]
            if start is not None and start.loss is not None:
                pairs = start.pairs and [(t, c.index_fill(0, index, 0.0)) for t, c in start.pairs]
                opening = self.source.first_held_out(state, part) if self._is_held_out(n) else first.loss
                window.start[k] = Record([], [], start.loss.index_copy(0, index, opening.to(start.loss)), pairs)

    def _is_held_out(self, number: int) -> bool:
        """True for a level that asks how much better its tasks are than at their start, on held-out batches."""
        return self.levels[number].objective == "improvement" and self.levels[number].on == "valid"

    def _renew_guard(self, state: RunState, first: Signal, places: Sequence[int]) -> None:
        """Guard the tasks that start as if they were alone; where their first loss is bad, they do not step."""
        if state.guard is None or not self.tower.carriers.guarded:
            return
        for n in places:
            state.guard.tasks[n] = TaskGuard()
        reached = [g for g in first.grads or [] if g is not None]
        norms = trees.norm(reached, batched=True).tolist() if reached else [0.0] * len(places)
        verdicts = judge(state.guard, first.loss.tolist(), norms, places=places)
        state.good = [*state.good]
        for n, verdict in zip(places, verdicts, strict=True):
            state.good[n] = verdict is Verdict.GOOD
        self._hold(state, [n for n, verdict in zip(places, verdicts, strict=True) if not state.good[n]])

    def _hold(self, state: RunState, stuck: Sequence[int]) -> None:
        """No step for the tasks that are ``stuck``."""
        if not stuck:
            return
        for number in self.graph.movers[TASK]:
            pending = state.pending[number]
            assert pending is not None
            where = torch.tensor(list(stuck), device=pending.loss.device)
            grads = pending.grads and [g if g is None else g.index_fill(0, where, 0.0) for g in pending.grads]
            bad = torch.zeros_like(pending.loss, dtype=torch.bool) if pending.bad is None else pending.bad
            loss = pending.loss.index_fill(0, where, EXPLODE)
            state.pending[number] = Signal(loss, grads, bad=bad.index_fill(0, where, True))


def _replaced(grads: Tensor | None, new: Tensor | None, index: Tensor, tasks: int) -> Tensor | None:
    """Gradients over tasks with those of some replaced; None is flat where the losses of other tasks reach."""
    if new is None:
        return grads if grads is None else grads.index_fill(0, index, 0.0)
    whole = new.new_zeros((tasks, *new.shape[1:])) if grads is None else grads
    return whole.index_copy(0, index, new)


def _laps(phase: float, place: int, tasks: int) -> int:
    """Episodes that the task in ``place`` has ended, being ``place / tasks`` of an episode ahead of the first."""
    return math.floor(phase + place / tasks + 1e-6)
