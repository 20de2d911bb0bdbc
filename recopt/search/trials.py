"""Levels above the task that try points: score each over a window, then go on from the best, or from the present one.

Where the run can go back, proposals are compared on the same batches from the same point in the run, so their
difference is free of the noise they share: the state before the window is a snapshot, each window runs as any
other steps do, and the run goes back to the snapshot until all are scored. Members of a population
(:meth:`recopt.Strategy.ancestors`) go on from snapshots of their own: what lies below the level is theirs, and the
level itself with all above it is common. In a training loop that is not ours there is no way back: proposals are scored
one after another, each over its own stretch of the training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..contracts import trees
from ..contracts.strategy import Params
from ..core.tower import Tower
from ..estimators.tape import value
from ..levels.state import RunState, Search
from .begins import Begins, Home, Together
from .choosing import Choosing, Chosen, Estimated


class Trials:
    """Runs the trials of a tower's levels.

    Args:
        closed: told when a window of a level that tries points has closed.
        weight: of the comparison with a teacher, in the score.
        together: runs several trials at once, where it can.

    Attributes:
        numbers: those levels.
    """

    def __init__(
        self, tower: Tower, home: Home, *, closed: Callable[[RunState, int], None] = lambda state, number: None,
        weight: Callable[[RunState, int], float] = lambda state, number: 0.0, together: Together | None = None,
    ) -> None:  # fmt: skip
        self.tower, self.home, self.closed, self.weight = tower, home, closed, weight
        graph = tower.graph
        self.levels = graph.levels
        self.numbers = [n for n, x in enumerate(self.levels) if x.tries and graph.subjects[n]]
        below = [graph.below(n) for n in range(len(self.levels))]
        self._common = [{n, *(m for m, under in enumerate(below) if n in under)} for n in range(len(below))]
        self.begins = Begins(tower, home, self._common, together)
        chosen, estimated = Chosen(tower, home, self._common), Estimated(tower, home, self._common)
        self._choosing: list[Choosing] = [estimated if x.perturbs else chosen for x in self.levels]
        several = [n for n in self.numbers if self.levels[n].population != 1]
        self._rivals = {
            n: [m for m in several if m != n and m not in below[n] and n not in below[m]] if n in several else []
            for n in self.numbers
        }

    @property
    def state(self) -> RunState:
        """The run's present state."""
        return self.home.state

    def active(self, state: RunState) -> bool:
        """True if what happens now may yet be taken back."""
        searches = [state.levels[n].search for n in self.numbers]
        return any(search is not None and search.start is not None for search in searches)

    def payer(self, state: RunState) -> int:
        """The level (0-based) that evaluations are charged to: the outermost that tries something."""
        for n in reversed(self.numbers):
            search = state.levels[n].search
            if search is not None and search.scores:
                return n
        return 0

    def due(self, number: int) -> bool:
        """True if level ``number`` may begin a search: one at a time, by turns, among levels of which neither is below.

        Two searches that overlap without one holding the other would take back each other's choices. A level that
        tries one point at a time takes nothing back.
        """
        levels, graph = self.home.state.levels, self.tower.graph
        if levels[number].search is not None:
            return False
        if number in graph.paces.spans and self.home.state.pending[graph.clock(number)] is None:
            return False  # a window is open whose length it would change
        return all(levels[n].search is None and levels[n].steps >= levels[number].steps for n in self._rivals[number])

    def begin(self, number: int) -> None:
        """Ask for points and set the first; remember the state to come back to."""
        state, slots = self.home.state, self.tower.slots
        own = state.levels[number]
        # Its window opens now, whatever was noted while it waited for its turn.
        own.window = own.window.next()
        if not self.active(state):
            self.home.flush()
        search = self._choosing[number].search(state, number)
        members, own.members = own.members, []  # which no copy of the state is to hold
        search.start = self.home.copy() if len(search.candidates) > 1 and self.home.returns else None
        search.of = [] if search.start is None else search.of
        search.starts = [members[k] for k in search.of]
        own.search = search
        if not self.levels[number].perturbs:  # whose first point is the present one
            slots.put(state, number, trees.detach(search.candidates[0]))

    def judge(self, number: int) -> bool:
        """A window has closed: note the score. True if the run went back, to try the next proposal."""
        while True:
            state, slots = self.home.state, self.tower.slots
            own = state.levels[number]
            search, window = own.search, own.window
            own.window = window.next()
            if search is None:
                return False
            point, moves = self._ended(number, search), self.tower.windows.moves[number]
            score = value(self.levels[number], window, moves, point, self.weight(state, number))
            search.scores += self.tower.setting.ranks.mean([score])
            self.closed(state, number)
            if len(search.scores) == 1 and self.levels[number].perturbs:
                search.scores += self.begins.scores(number, search, self.payer(self.home.state)) or []
            if len(search.scores) == len(search.candidates):
                own.search = None
                self._choosing[number].decide(number, search)
                return False
            if search.start is None:
                slots.put(state, number, trees.detach(search.candidates[len(search.scores)]))
                return False
            own.search = None
            search.ends.append(self.home.copy())
            if len(search.ends) == 1:
                self.begins.together(number, search, self.payer)
            end = search.ready.pop(len(search.scores), None)
            if end is None:
                self.begins.go(number, search, len(search.scores))
                return True
            self.home.go(end)
            self.home.state.levels[number].search = search

    def _ended(self, number: int, search: Search) -> Params:
        """The point that a trial ended at, to which its score belongs: the guard may have lowered a rate."""
        place, point = len(search.scores), self.tower.slots.point(self.home.state, number)
        point = trees.detach(self.tower.slots.tensors(number, point))
        if not place and all(map(torch.allclose, search.point, search.candidates[0])):  # to rounding
            search.point = point
        search.candidates[place] = point
        return point


def untaped(tower: Tower, state: RunState) -> bool:
    """True if no tape of ``tower`` is open in ``state`` nor in any state that it may go back to."""
    if any(p.grad_fn is not None for p in state.task.params):
        return False
    for level, closed, own in zip(tower.graph.levels, tower.carriers.closed, state.levels, strict=True):
        if level.taping and not closed and any(own.window.records):
            return False
        search = own.search
        others = (
            []
            if search is None
            else [*search.ends, *search.starts, *search.ready.values(), *filter(None, [search.start])]
        )
        others += own.members
        if not all(untaped(tower, other) for other in others):
            return False
    return True
