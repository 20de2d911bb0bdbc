"""Where tapes are cut, and what must carry a graph until then.

An *exact* level (``second_order``) differentiates through the gradients beneath it, so they and the hypergradients
of the levels in between carry a graph until its own window has closed. All others need the updates of one window only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..contracts import trees
from ..core.level import TASK
from ..core.state import RunState
from .tape import Closing

if TYPE_CHECKING:
    from .engine import Engine


class Truncation:
    """Says how far the tapes of an engine reach.

    Attributes:
        exact: the exact levels.
        closing: the levels whose windows the present evaluation closes.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.graph, self.levels = engine, engine.graph, engine.levels
        self.exact = [n for n, level in enumerate(self.levels) if level.second_order]
        self.under = [self.graph.below(n) for n in range(len(self.levels))]
        self.closing: set[int] = set()

    def foresee(self, state: RunState) -> None:
        """Note which windows the coming evaluation will close."""
        arriving = set(self.graph.movers[TASK])
        self.closing = set()
        for number, level in enumerate(self.levels):
            if level.moves != TASK and self.graph.clock(number) in arriving:
                records = state.levels[number].window.records[-1]
                if len(records) >= (level.every or 1):
                    self.closing.add(number)
                    arriving.add(number)

    def graph_needed(self, state: RunState) -> bool:
        """Whether some level differentiates through the present evaluation's gradient."""
        live = any(p.requires_grad for p in state.slots[TASK].params)
        tasks = set(self.graph.movers[TASK])
        return live and any(tasks & self.under[e] for e in self.exact if e not in self.closing)

    def over(self, number: int) -> list[int]:
        """The exact levels that differentiate through the hypergradients of level ``number``."""
        return [e for e in self.exact if number in self.under[e]]

    def closing_of(self, state: RunState, number: int, imitation: float) -> Closing:
        """How a window of level ``number`` ends; ``imitation`` is the weight of the distance from its teacher."""
        # A search may come back to before this window closed, and close it again.
        others = any(n != number and level.taping for n, level in enumerate(self.levels))
        others = others or self.engine.searcher.active(state)
        exact = any(e not in self.closing for e in self.over(number))
        return Closing(exact=exact, keep=others, imitation=imitation)

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape below a level whose window has closed, where no other window is still open over it."""
        if self.over(number):
            return
        exact = bool(self.levels[number].second_order)
        open_ = [
            n
            for n, level in enumerate(self.levels)
            if n != number and level.taping and any(state.levels[n].window.records)
        ]
        for m in self.under[number] if exact else set(self.graph.subjects[number]):
            needed = any(m in self.graph.subjects[n] or (exact and n in self.exact) for n in open_)
            pending = state.pending[m]
            if needed or pending is None:
                continue
            self.engine.slots.cut(state, m)
            self.engine.teacher.cut(state, m)
            state.pending[m] = trees.detach(pending)
