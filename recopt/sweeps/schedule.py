"""Schedules: the order in which the parts of trials are begun, which follows from the losses alone."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from ..search.halving import Halving
from ..search.proposals import Round, Search, Settings


class Part(NamedTuple):
    """A trial (from 0) up to a rung; the last rung is its end."""

    trial: int
    rung: int


class Schedule(Protocol):
    """Decides which part of which trial comes next.

    Attributes:
        trials: the settings of all trials decided on so far.
        origins: by trial, the one that it goes on from, with its own settings; none of those that begin anew.
        ahead: the most parts that may be begun before the first of them is reported.
        spent: trials that none goes on from any more, the last ones known.
    """

    trials: list[Settings]
    origins: dict[int, int]
    ahead: float
    spent: range

    def next(self) -> Part | None:
        """The next part; None if there is none before a report."""

    def report(self, part: Part, loss: float) -> None:
        """Take the loss of a part; parts are reported in the order in which they were begun."""


class Batches:
    """Whole trials, batch by batch of a search. What was tried before is not tried again: its loss is known."""

    ahead, spent = math.inf, range(0)

    def __init__(self, search: Search) -> None:
        self.trials, self.origins = list[Settings](), dict[int, int]()
        self._search, self._batch, self._begun = search, list[int](), 0
        self._losses: dict[int, float] = {}
        self._advance(None)

    def next(self) -> Part | None:
        """The next trial of the batch."""
        if self._begun == len(self.trials):
            return None
        self._begun += 1
        return Part(self._begun - 1, 0)

    def report(self, part: Part, loss: float) -> None:
        """Take the loss of a trial; with the last of a batch, the search goes on."""
        self._losses[part.trial] = loss
        while self._batch and all(trial in self._losses for trial in self._batch):
            self._advance([self._losses[trial] for trial in self._batch])

    def _advance(self, losses: Sequence[float] | None) -> None:
        try:
            batch = next(self._search) if losses is None else self._search.send(losses)
        except StopIteration:
            self._batch = []
            return
        self._batch = []
        for settings in batch:
            if settings not in self.trials:
                self.trials.append(settings)
            self._batch.append(self.trials.index(settings))


class Halved:
    """Trials, all known beforehand, that go on from rung to rung as :class:`recopt.search.halving.Halving` decides."""

    spent = range(0)

    def __init__(self, trials: Sequence[Settings], rungs: int, eta: int, ahead: int) -> None:
        self.trials, self.origins, self.ahead = list(trials), dict[int, int](), float(ahead)
        self._halving = Halving(len(trials), rungs, eta)

    def next(self) -> Part | None:
        """The next trial and the rung that it is to reach."""
        found = self._halving.next()
        return Part(*found) if found else None

    def report(self, part: Part, loss: float) -> None:
        """Take the loss of a trial at a rung."""
        self._halving.report(*part, loss)


class Rounds:
    """Trials that each are one round of a member of a population, and go on from a member of the round before."""

    ahead = math.inf

    def __init__(self, search: Generator[Round, Sequence[float], None]) -> None:
        self.trials, self.origins, self.spent = list[Settings](), dict[int, int](), range(0)
        self._search, self._first, self._round, self._begun = search, 0, 0, 0
        self._losses: dict[int, float] = {}
        self._add(next(search))

    def next(self) -> Part | None:
        """The next member of the round."""
        if self._begun == len(self.trials):
            return None
        self._begun += 1
        return Part(self._begun - 1, self._round)

    def report(self, part: Part, loss: float) -> None:
        """Take the loss of a trial; with the last of a round, the next one is decided on."""
        self._losses[part.trial] = loss
        if len(self._losses) < len(self.trials):
            return
        first, self.spent = self._first, range(self.spent.stop, self._first)
        try:
            found = self._search.send([self._losses[trial] for trial in range(first, len(self.trials))])
        except StopIteration:
            return
        self._first, self._round = len(self.trials), self._round + 1
        self._add(found)
        for place, origin in enumerate(found.origins):
            self.origins[self._first + place] = first + origin

    def _add(self, found: Round) -> None:
        self.trials += found.settings
