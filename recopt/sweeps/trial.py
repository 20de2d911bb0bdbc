"""One trial of a sweep: an ordinary run with some settings, as a job."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..checking.errors import RecoptError
from ..engine.measure import measure, settled
from ..running.checkpoints import CHECKPOINT
from ..running.plan import Plan, replan
from ..running.result import Result
from ..running.session import RunOptions, Session

FIELDS = ("task", "stack", "depth", "steps", "tasks", "dtype")
"""The fields of a run's spec that a sweep may go over, besides its settings."""
FIGURES = ("loss", "steps", "evaluations", "choose_score")
"""The scores that any run may have, the least being the best: held-out loss, updates made, evaluations made, and the
score of the values that it chooses."""


def trial_plan(run: Mapping[str, Any], settings: Mapping[str, Any], seed: int, where: str = "the spec") -> Plan:
    """The plan of a run's mapping with other ``settings`` and ``seed``. Errors are those of ``replan``."""
    fields = {key: value for key, value in settings.items() if key in FIELDS}
    texts = [f"{key}={json.dumps(value)}" for key, value in settings.items() if key not in FIELDS]
    return replan(run, settings=texts, seed=seed, where=where, **fields)


class Before(NamedTuple):
    """A part of a run that another goes on from: its settings, the step at which it ended, and where it is kept."""

    settings: Mapping[str, Any]
    until: int
    folder: str | None


@dataclass(frozen=True)
class TrialRun:
    """A run of a trial, whole or up to a step.

    Attributes:
        spec: the mapping of a run's spec; ``settings``: those of the trial.
        until: the step at which it pauses; None for its end.
        folder: keeps the run where it pauses. If an earlier part of it is there, it goes on from that, and begins
            anew if not; the answer is the same.
        before: the trials that it goes on from, the first one first: what of their runs does not depend on other
            settings is kept (:func:`recopt.engine.carry.carry`). One whose folder is not there is run again.
    """

    spec: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    until: int | None = None
    folder: str | None = None
    before: Sequence[Before] = ()

    def words(self) -> dict[str, Any]:
        """Its fields."""
        return dict(self.__dict__)

    @classmethod
    def read(cls, words: Mapping[str, Any]) -> Self:
        """The job with these fields."""
        return cls(**{**words, "before": [Before(*one) for one in words["before"]]})

    def run(self) -> dict[str, Any]:
        """Train, and measure on held-out data.

        Returns:
            ``figures``: the scores that it has; ``test``: those on the ``test`` split, at its end; ``step``;
            ``outcome``; ``hyperparameters``; ``seconds``.

        Raises:
            RecoptError: for settings that cannot work; RunFailed for an error in a strategy or task.
            KeyboardInterrupt: if it was interrupted.
        """
        begin = time.perf_counter()
        session = self._session()
        result = session.run()
        paused = self.until is not None and session.step >= self.until and not session.over
        if result.status != "FINISHED" and not paused:
            raise KeyboardInterrupt
        if self.folder and (paused or self.before):
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            session.checkpoints.save(Path(self.folder))
        return {
            "figures": _figures(session, result), "test": {} if paused else result.after,
            "step": session.step, "outcome": "paused" if paused else result.outcome,
            "hyperparameters": result.hyperparameters, "seconds": time.perf_counter() - begin,
        }  # fmt: skip

    def _session(self) -> Session:
        made = trial_plan(self.spec, self.settings, self.seed)
        if self.before:
            return self._carried(made)
        if self.folder and (Path(self.folder) / CHECKPOINT).is_file():
            try:
                return Session(made, RunOptions(track=False, saved=Path(self.folder), pause=self.until))
            except RecoptError:  # cut short by a kill, and as cheap to make again
                made = trial_plan(self.spec, self.settings, self.seed)
        return Session(made, RunOptions(track=False, pause=self.until))

    def _carried(self, made: Plan) -> Session:
        """The run of ``made``, which goes on from the last of those before it."""
        last = self.before[-1]
        saved = Path(last.folder) if last.folder else None
        if saved and (saved / CHECKPOINT).is_file():
            with suppress(RecoptError):  # cut short by a kill
                return self._from(made, saved)
        with tempfile.TemporaryDirectory() as anew:
            replace(self, settings=last.settings, until=last.until, folder=anew, before=self.before[:-1]).run()
            return self._from(made, Path(anew))

    def _from(self, made: Plan, saved: Path) -> Session:
        """The run of ``made``, which goes on from the one in ``saved``."""
        last = self.before[-1].settings
        origin = None if dict(last) == dict(self.settings) else trial_plan(self.spec, last, self.seed)
        return Session(made, RunOptions(track=False, saved=saved, pause=self.until, origin=origin))


def _figures(session: Session, result: Result) -> dict[str, float]:
    engine, chosen, total = session.engine, result.chosen, result.budget.total
    found = {**measure(engine, "valid", settled(engine)), "steps": float(session.step),
             "evaluations": float(total.evaluations)}  # fmt: skip
    return found | ({"choose_score": chosen.score.mean} if chosen and chosen.score else {})
