"""Tapes under the windows of levels: where a graph is needed, and where it is cut.

An exact level differentiates through the gradients beneath it, so they and the hypergradients of the levels in between
carry a graph until its own window has closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..contracts import trees
from ..levels.estimator import Closing
from ..levels.level import LOSS, TASK
from ..levels.state import RunState
from .carriers import Carriers
from .slots import Slots


class Teaching(Protocol):
    """The teachers of levels that imitate (:mod:`recopt.engine.imitation`)."""

    def weight(self, state: RunState, number: int) -> float:
        """The weight of level ``number``'s comparison with its teacher at present; 0 where it has none."""

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape of the teachers beside level ``number``."""


class Tapes:
    """Says which gradients carry a graph, and truncates it.

    Args:
        teaching: the teachers of levels that imitate, if any do.
        searching: whether what happens now may yet be taken back.

    Attributes:
        full: the levels whose windows the present evaluation closes.
    """

    def __init__(
        self, carriers: Carriers, slots: Slots, teaching: Teaching | None, searching: Callable[[RunState], bool]
    ) -> None:
        self.graph = graph = carriers.graph
        self.carriers, self.slots, self.levels = carriers, slots, graph.levels
        self.teaching, self.searching = teaching, searching
        self.under = [graph.within(n) if x.second_order else graph.below(n) for n, x in enumerate(self.levels)]
        self._tasks = set(graph.movers[TASK])
        self._through = [e for e in carriers.exact if self._tasks & self.under[e]]
        self._taping = [n for n, level in enumerate(self.levels) if level.taping and not carriers.closed[n]]
        self._always = any(self.levels[e].moves == LOSS or carriers.closed[e] for e in carriers.exact)
        self.full: set[int] = set()

    def foresee(self, state: RunState) -> None:
        """Note which windows the coming evaluation will close."""
        if not self.carriers.exact:
            return
        arriving = set(self._tasks)
        self.full = set()
        for number, level in enumerate(self.levels):
            if level.moves != TASK and self.graph.clock(number) in arriving:
                records = state.levels[number].window.records[-1]
                if len(records) >= self.graph.paces.every(state, number):
                    self.full.add(number)
                    arriving.add(number)

    def graph_needed(self, state: RunState) -> bool:
        """True if some level differentiates through the present evaluation's gradient."""
        live = self._always or any(p.requires_grad for p in state.slots[TASK].params)
        return live and (self._always or not self.full.issuperset(self._through))

    def over(self, number: int) -> list[int]:
        """The exact levels that differentiate through the hypergradients of level ``number``."""
        return [e for e in self.carriers.exact if number in self.under[e]]

    def closing(self, state: RunState, number: int, imitation: float) -> Closing:
        """The terms on which the window of a level is closed."""
        # A search may come back to before this window closed, and close it again.
        others = any(n != number for n in self._taping)
        exact = any(e not in self.full for e in self.over(number))
        return Closing(exact, others or self.searching(state), imitation, self.carriers.setting.ranks.squares)

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape below a level whose window has closed, where no other window is still open over it."""
        exact = bool(self.levels[number].second_order)
        if self.over(number) or (exact and self.carriers.closed[number]):
            return
        open_ = [n for n in self._taping if n != number and any(state.levels[n].window.records)]
        for m in self.under[number] if exact else set(self.graph.subjects[number]):
            needed = any(m in self.graph.subjects[n] or (exact and n in self.carriers.exact) for n in open_)
            pending = state.pending[m]
            if needed or pending is None:
                continue
            self.slots.cut(state, m)
            if self.teaching:
                self.teaching.cut(state, m)
            state.pending[m] = trees.detach(pending)
