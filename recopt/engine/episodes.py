"""Fresh starts: after an episode a slot is drawn anew, with the states of what moves it and everything below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..core.tower import Tower
from ..levels.judgement import Guard
from ..levels.level import BILEVEL, TASK
from ..levels.state import Numbers, RunState, SlotState, Window
from .family import Family
from .init_slot import begin
from .stagger import Stagger


class Episodes:
    """Ends the episodes of a tower's slots, and begins new ones.

    Args:
        stagger: starts single tasks afresh.
        log: adds a point to the record of a level (0-based).
    """

    def __init__(
        self, tower: Tower, family: Family, stagger: Stagger, log: Callable[[RunState, int, dict[str, Any]], None]
    ) -> None:
        self.tower, self.family, self.stagger, self.log = tower, family, stagger, log
        self.levels = tower.graph.levels

    def close(self, state: RunState, number: int) -> None:
        """Note which slots are to start afresh, now that a window of level ``number`` has closed."""
        level = self.levels[number]
        length = level.length(state.slots[level.moves].age)
        if length is None:
            return
        if level.stagger:
            self.stagger.advance(state, number, length // (level.every or 1))
            return
        for m in self.tower.graph.subjects[number]:
            name = self.levels[m].moves
            # The window that closes now counts the update that waited for this evaluation.
            if state.slots[name].age >= length:
                if level.curriculum:
                    self.log(state, number, {"episode": state.slots[name].age})
                self._mark(state, name)

    def ages(self, state: RunState, name: str) -> list[int]:
        """Updates of a slot since it started afresh, as one number or, for tasks that do so by turns, one for each."""
        slot = state.slots[name]
        if isinstance(slot, SlotState) and slot.starts:
            return [slot.seen - 1 - start.seen for start in slot.starts]
        return [slot.age]

    def begin(self, state: RunState, name: str) -> None:
        """On the way down: start afresh what is due."""
        if name in state.resets:
            self._afresh(state, name)
        elif name == TASK and state.due:
            self.stagger.renew(state)

    def _mark(self, state: RunState, name: str) -> None:
        """Mark a slot and all that its strategy moves."""
        if name in state.resets:
            return
        state.resets.append(name)
        for level in self.levels:
            if level.by == name or (name in BILEVEL and level.moves == TASK):
                self._mark(state, level.moves)

    def _afresh(self, state: RunState, name: str) -> None:
        """Draw a slot anew: its value, the states of the levels that move it, and everything below."""
        tower, graph = self.tower, self.tower.graph
        state.slots[name] = self._drawn(state.slots[name], name)
        if name == TASK:
            begin(graph, state, self.family.drawn(state.task.draw).names, tower.setting.tasks)
            state.due = []
            if state.guard is not None:
                state.guard = replace(Guard.empty(len(state.guard.tasks)), counts=dict(state.guard.counts))
        for number in graph.movers[name]:
            own = state.levels[number]
            tower.beginnings.begin(state, number)
            own.before, own.score, own.search, own.members, own.live = None, None, None, [], []
            own.carried = {}
            for n in graph.above[number]:
                state.levels[n].window = Window.empty(len(graph.subjects[n]))
                state.levels[n].phase = 0.0
                state.levels[n].taught.pop(number, None)

    def _drawn(self, old: SlotState | Numbers, name: str) -> SlotState | Numbers:
        """The next draw of a slot's value."""
        draw, family = old.draw + 1, self.family
        if name == TASK:
            new: SlotState | Numbers = family.fresh(draw)
        elif name in BILEVEL:
            new = self.tower.beginnings.made(name, self.tower.graph.slots[name])
        else:
            fresh = self.tower.graph.afresh(name, family.seed, draw)
            if name not in self.tower.carriers.spaces:
                fresh = fresh.to(family.device, family.dtype)
            new = self.tower.beginnings.made(name, fresh)
        new.draw, new.version = draw, old.version + 1
        return new
