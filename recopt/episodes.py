"""Fresh starts: after an episode a slot is drawn anew, with the states of what moves it and everything below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .level import TASK
from .state import RunState, SlotState, Window

if TYPE_CHECKING:
    from .engine import Engine


class Episodes:
    """Ends the episodes of an engine's slots, and begins new ones."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.levels = engine, engine.levels

    def close(self, state: RunState, number: int) -> None:
        """Note which slots are to start afresh, now that a window of level ``number`` has closed."""
        level = self.levels[number]
        length = level.length(state.slots[level.moves].age)
        if length is None:
            return
        for m in self.engine.graph.subjects[number]:
            name = self.levels[m].moves
            # The window that closes now counts the update that waited for this evaluation.
            if state.slots[name].age >= length:
                if level.curriculum:
                    self.engine.log(state, number + 1, {"episode": state.slots[name].age})
                self._mark(state, name)

    def _mark(self, state: RunState, name: str) -> None:
        """Mark a slot and all that its strategy moves."""
        if name in state.resets:
            return
        state.resets.append(name)
        for level in self.levels:
            if level.by == name:
                self._mark(state, level.moves)

    def afresh(self, state: RunState, name: str) -> None:
        """Draw a slot anew: its value, the states of the levels that move it, and everything below."""
        engine, slot = self.engine, state.slots[name]
        draw = slot.draw + 1
        if name == TASK:
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
