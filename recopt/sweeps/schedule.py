"""Schedules: the order in which the parts of trials are begun, which follows from the losses alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..search.halving import Halving
from ..search.proposals import Search, Settings


class Part(NamedTuple):
    """A trial (from 0) up to a rung; the last rung is its end."""

    trial: int
    rung: int


class Schedule(Protocol):
    """Decides which part of which trial comes next.

    Attributes:
        trials: the settings of all trials decided on so far.
        ahead: the most parts that may be begun before the first of them is reported.
    """

    trials: list[Settings]
    ahead: float

    def next(self) -> Part | None:
        """The next part; None if there is none before a report."""

    def report(self, part: Part, loss: float) -> None:
        """Take the loss of a part; parts are reported in the order in which they were begun."""


class Batches:
    """Whole trials, batch by batch of a search. What was tried before is not tried again: its loss is known."""

    ahead = math.inf

    def __init__(self, search: Search) -> None:
        self.trials: list[Settings] = []
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

    def __init__(self, trials: Sequence[Settings], rungs: int, eta: int, ahead: int) -> None:
        self.trials, self.ahead = list(trials), float(ahead)
        self._halving = Halving(len(trials), rungs, eta)

    def next(self) -> Part | None:
        """The next trial and the rung that it is to reach."""
        found = self._halving.next()
        return Part(*found) if found else None

    def report(self, part: Part, loss: float) -> None:
        """Take the loss of a trial at a rung."""
        self._halving.report(*part, loss)
