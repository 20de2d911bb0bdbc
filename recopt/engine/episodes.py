"""Fresh starts: after an episode a slot is drawn anew, with the states of what moves it and everything below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.level import TASK
from ..core.state import RunState, Window
from .stagger import Turns

if TYPE_CHECKING:
    from .engine import Engine


class Episodes:
    """Ends the episodes of an engine's slots, and begins new ones."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.levels = engine, engine.levels
        self.turns = Turns(engine)

    def close(self, state: RunState, number: int) -> None:
        """Note which slots are to start afresh, now that a window of level ``number`` has closed."""
        level = self.levels[number]
        length = level.length(state.slots[level.moves].age)
        if length is None:
            return
        if level.stagger:
            self.turns.advance(state, number, length // (level.every or 1))
            return
        for m in self.engine.graph.subjects[number]:
            name = self.levels[m].moves
            # The window that closes now counts the update that waited for this evaluation.
            if state.slots[name].age >= length:
                if level.curriculum:
                    self.engine.log(state, number + 1, {"episode": state.slots[name].age})
                self._mark(state, name)

    def ages(self, state: RunState, name: str) -> list[int]:
        """Updates of a slot since it started afresh, as one number or, for tasks that do so by turns, one for each."""
        slot = state.slots[name]
        return [slot.seen - 1 - start.seen for start in slot.starts] or [slot.age]

    def begin(self, state: RunState, name: str) -> None:
        """On the way down: start afresh what is due."""
        if name in state.resets:
            self._afresh(state, name)
        elif name == TASK and state.due:
            self.turns.renew(state)

    def _mark(self, state: RunState, name: str) -> None:
        """Mark a slot and all that its strategy moves."""
        if name in state.resets:
            return
        state.resets.append(name)
        for level in self.levels:
            if level.by == name:
                self._mark(state, level.moves)

    def _afresh(self, state: RunState, name: str) -> None:
        """Draw a slot anew: its value, the states of the levels that move it, and everything below."""
        engine = self.engine
        if name == TASK:
            state.due = []
        engine.slots.renew(state, name)
        state.guards.pop(name, None)
        for number in engine.graph.movers[name]:
            own = state.levels[number]
            own.strategy, own.normal = engine.slots.init(state, number), {}
            own.before, own.score, own.search = None, None, None
            for n in engine.graph.above[number]:
                state.levels[n].window = Window.empty(len(engine.graph.subjects[n]))
                state.levels[n].phase = 0.0
                state.levels[n].taught.pop(number, None)
