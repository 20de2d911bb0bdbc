"""The conduct of a sweep: its parts are begun in their order, done by an executor, and kept in a journal."""

from __future__ import annotations

import math
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..checking.errors import RecoptError
from ..search.executor import Executor
from ..search.journal import Entry, Journal
from .planning import SweepPlan
from .schedule import Part
from .trial import Before, TrialRun

Told = Callable[[Part], None]
JOURNAL = "trials.jsonl"


class Key(NamedTuple):
    """One run of a trial, up to a rung."""

    trial: int
    rung: int
    repeat: int


def trial_journal(file: Path | None) -> Journal[Key]:
    """The journal of a sweep in ``file``; its entries are about the settings of their trials."""
    return Journal(file, Key._make)


class Conduct:
    """Carries out the schedule of a sweep.

    Args:
        parts: the folder in which trials that pause are kept; None to begin them anew at each rung.
        told: called with each part as soon as all of its runs have been answered.
    """

    def __init__(
        self, plan: SweepPlan, executor: Executor, journal: Journal[Key], parts: Path | None = None,
        told: Told = lambda part: None,
    ) -> None:  # fmt: skip
        self.plan, self.executor, self.journal, self.parts, self.told = plan, executor, journal, parts, told
        self._asked: dict[int, Key] = {}

    def run(self) -> None:
        """Carry it out.

        Raises:
            RecoptError: if the journal is of another sweep.
        """
        schedule, begun = self.plan.schedule, deque[Part]()
        while True:
            while len(begun) < schedule.ahead and (part := schedule.next()):
                begun.append(part)
                self._begin(part)
            if not begun:
                return
            while not self._answered(begun[0]):
                self._take()
            part = begun.popleft()
            schedule.report(part, self.loss(part))
            if self.parts:
                for trial in schedule.spent:
                    for repeat in range(self.plan.spec.repeat):
                        shutil.rmtree(self.parts / f"{trial}-{repeat}", ignore_errors=True)

    def entries(self, part: Part) -> list[Entry]:
        """The answers to ``part`` that are there."""
        keys = (Key(*part, repeat) for repeat in range(self.plan.spec.repeat))
        return [self.journal.entries[key] for key in keys if key in self.journal.entries]

    def loss(self, part: Part) -> float:
        """The mean score of the part's runs, as a loss: the less, the better, and infinite if one has none."""
        scores = [entry.found["figures"][self.plan.spec.score] for entry in self.entries(part) if not entry.failure]
        if len(scores) < self.plan.spec.repeat or not all(map(math.isfinite, scores)):
            return math.inf
        return self.plan.sign * math.fsum(scores) / len(scores)

    def _answered(self, part: Part) -> bool:
        return len(self.entries(part)) == self.plan.spec.repeat

    def _begin(self, part: Part) -> None:
        settings = self.plan.schedule.trials[part.trial]
        for repeat in range(self.plan.spec.repeat):
            key = Key(*part, repeat)
            if known := self.journal.entries.get(key):
                if dict(known.about) != dict(settings):
                    raise RecoptError(
                        f"Trial {part.trial + 1} was recorded with other settings than it has now: start a new sweep."
                    )
                continue
            number = len(self._asked)
            self._asked[number] = key
            self.executor.submit(number, self._job(key, settings))
        if self._answered(part):
            self.told(part)

    def _job(self, key: Key, settings: Mapping[str, Any]) -> TrialRun:
        rungs, spec = self.plan.rungs, self.plan.spec
        last = key.rung == len(rungs) - 1
        return TrialRun(spec.run, settings, spec.seed + key.repeat, None if last else rungs[key.rung],
                        self.folder(key.trial, key.repeat), self._before(key))  # fmt: skip

    def folder(self, trial: int, repeat: int) -> str | None:
        """The place of a run of a trial that pauses, or that others go on from."""
        return str(self.parts / f"{trial}-{repeat}") if self.parts and len(self.plan.rungs) > 1 else None

    def _before(self, key: Key) -> list[Before]:
        """The trials that a run goes on from, the first one first."""
        found, schedule, trial = list[Before](), self.plan.schedule, key.trial
        while trial in schedule.origins:
            trial = schedule.origins[trial]
            until = self.plan.rungs[key.rung - len(found) - 1]
            found.append(Before(schedule.trials[trial], until, self.folder(trial, key.repeat)))
        return found[::-1]

    def _take(self) -> None:
        """Wait for an answer, and keep it."""
        answer = self.executor.next()
        key = self._asked[answer.number]
        settings = self.plan.schedule.trials[key.trial]
        self.journal.add(key, Entry(settings, answer.found, answer.failure, answer.tries))
        part = Part(key.trial, key.rung)
        if self._answered(part):
            self.told(part)
