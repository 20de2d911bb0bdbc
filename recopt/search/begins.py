"""The states that trials begin from, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..contracts import trees
from ..core.evaluation import Evaluation
from ..core.tower import Tower
from ..levels.estimator import POINTS, STACK
from ..levels.level import Level
from ..levels.registry import ESTIMATORS
from ..levels.state import RunState, Search


class Home(Protocol):
    """The owner of a run.

    Attributes:
        state: the present one.
        returns: whether the run can go back.
    """

    state: RunState
    returns: bool

    def copy(self) -> RunState:
        """A copy of the present state that can be gone back to."""

    def go(self, to: RunState) -> None:
        """Make a copy of ``to`` the run's state."""

    def flush(self) -> None:
        """Nothing will take the record so far back."""


class Together(Protocol):
    """Runs the windows of trials side by side (:mod:`recopt.engine.population`)."""

    def serves(self, number: int, count: int) -> bool:
        """True if ``count`` trials of level ``number`` may be run so."""

    def ends(self, states: Sequence[RunState], number: int, payer: int) -> Sequence[RunState | None]:
        """The ends of windows that have begun in ``states`` with an update; None for what has to be run alone."""

    def scores(self, number: int, search: Search, payer: int) -> list[Tensor] | None:
        """The scores of all points of a search but the first; None if they have to be run one after the other."""


class Begins:
    """Goes to where trials begin.

    Args:
        common: by level, the levels that its members have in common.
        together: runs several trials at once, where it can.
    """

    def __init__(
        self, tower: Tower, home: Home, common: Sequence[Collection[int]], together: Together | None
    ) -> None:  # fmt: skip
        self.tower, self.home, self.common, self._together = tower, home, common, together
        self.levels = tower.graph.levels

    def scores(self, number: int, search: Search, payer: int) -> list[Tensor] | None:
        """The scores of all points but the first, run as one, where that may be done."""
        had, found = STACK in search.carried, None
        if self._together is not None:
            found = self._together.scores(number, search, payer)
        if found is None and had:  # the points begin where this window did: what they were perturbed by before is gone
            noise = [rows[1::2] - rows[0] for rows in search.carried[POINTS]]
            ESTIMATORS[self.levels[number].gradient or ""].perturbed(search.carried, True, noise)
        return found

    def go(self, number: int, search: Search, trial: int) -> None:
        """Go to where a trial begins, and set its point."""
        start = search.start
        if search.starts:
            start = _joined(search.starts[trial], start, self.levels, self.common[number])
        self.home.go(start)
        self.home.state.levels[number].search = search
        self.tower.slots.put(self.home.state, number, trees.detach(search.candidates[trial]))

    def together(self, number: int, search: Search, payer: Callable[[RunState], int]) -> None:
        """Run the windows of all trials but the first side by side, where that may be done."""
        rest, draws = range(1, len(search.candidates)), zip(search.start.rng, search.ends[0].rng, strict=True)
        together = self._together
        if together is None or not together.serves(number, len(rest)) or not all(torch.equal(a, b) for a, b in draws):
            return
        begun = list[RunState]()
        for trial in rest:
            self.go(number, search, trial)
            pays = payer(self.home.state)
            self.tower.down(self.home.state, number, Evaluation(None))
            self.home.state.levels[number].search = None
            begun.append(self.home.copy())
        ends = zip(rest, together.ends(begun, number, pays), strict=True)
        search.ready = {trial: end for trial, end in ends if end is not None}


def _joined(member: RunState, present: RunState, levels: Sequence[Level], common: Collection[int]) -> RunState:
    """``member`` with the levels in ``common`` as they are at ``present``, and the record so far."""
    slots = {levels[n].by for n in common}
    return replace(
        member,
        slots={name: (present if name in slots else member).slots[name] for name in member.slots},
        levels=[(present if n in common else member).levels[n] for n in range(len(levels))],
        pending=[(present if n in common else member).pending[n] for n in range(len(levels))],
        log=present.log,
    )
