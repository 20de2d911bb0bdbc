"""Training of competitors by ordinary runs, whose exported values are then compared, fixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..checking.errors import RecoptError
from ..levels.level import TASK
from ..running.plan import Plan, replan
from ..running.spec import LARGEST_SEED
from ..running.task_runs import graph_of, raised
from ..search.executor import Executor
from ..search.flows import Flow, carry_out
from ..search.jobs import FAILED, LOST, Answer, Failure, Job
from ..search.journal import Entry, Journal
from ..tracking.mlflow.address import resolve_store
from ..tracking.mlflow.store import RUNS
from .compare_spec import CompareSpec, CompetitorSpec
from .competitors import Competitor, Training, guarded
from .training_run import TrainingRun

Progress = Callable[[str, int, int], None]


class Untrained(NamedTuple):
    """A competitor that is left out, with the failure of its training."""

    name: str
    failure: Failure


@dataclass(frozen=True)
class Trainee:
    """A competitor to train: its name, a plan for each training, and whether guards act in the comparison."""

    name: str
    plans: tuple[Plan, ...]
    guards: bool


def trainee(asked: CompetitorSpec, spec: CompareSpec) -> Trainee:
    """The trainee of a spec that has a run.

    Raises:
        RecoptError: for a run that cannot work, does not train the rule that moves the task, or has too large a seed.
    """
    assert asked.run is not None
    where = f"the run of '{asked.name or asked.stack or asked.run.get('stack') or 'a competitor'}'"
    data = {"device": spec.device, "dtype": spec.dtype, "plugins": [], **asked.run}
    if isinstance(data["plugins"], list):
        data["plugins"] = [*data["plugins"], *spec.plugins]
    first = replan(data, stack=asked.stack, settings=asked.settings, where=where)
    rules = {level.by for level in first.graph.levels if level.moves == TASK}
    if not any(level.moves in rules for level in first.graph.levels):
        raise RecoptError(
            f"In {where} nothing is trained: no level moves {' or '.join(sorted(rules))}. Give it as a stack, or put a "
            "level above, as in lstm/adam."
        )
    if first.spec.seed + asked.repeat > LARGEST_SEED:
        raise RecoptError(f"In {where} seeds must be below {LARGEST_SEED:,}: the rest is kept for comparisons.")
    others = [
        replan(data, stack=asked.stack, settings=asked.settings, where=where, seed=first.spec.seed + n)
        for n in range(1, asked.repeat)
    ]
    return Trainee(asked.name or first.graph.describe(), (first, *others), spec.guards)


class Trainer:
    """Trains competitors; a run that several competitors or comparisons share is made once.

    Every run is recorded as by ``recopt run``, in the store of the comparison.
    """

    def __init__(self, store: str | None = None, track: bool = True, root: Path = RUNS) -> None:
        self._store, self._track, self._root = resolve_store(store, root) if track else None, track, root.absolute()
        self._done: dict[str, Mapping[str, Any]] = {}

    def train(
        self, trainees: Sequence[Trainee], executor: Executor, journal: Journal[str], begun: Path | None,
        progress: Progress,
    ) -> dict[str, Competitor | Untrained]:  # fmt: skip
        """Train all of them, side by side, and keep what is done in ``journal``; by name.

        Args:
            begun: a folder for notes of the runs that have begun, which go on if they are cut short; None for none.

        Raises:
            RecoptError: for errors of use that only appear while they run.
            KeyboardInterrupt: if it was interrupted.
        """
        jobs = dict[str, TrainingRun]()
        for one in trainees:
            for key, plan in zip(_keys(one), one.plans, strict=True):
                if (known := journal.entries.get(key)) is not None:
                    self._done[key] = known.found
                elif key in self._done:
                    journal.add(key, Entry({"training": one.name}, self._done[key]))
                elif key not in jobs:
                    jobs[key] = self._job(key, one, plan, begun, progress)

        def heard(job: Job, answer: Answer) -> None:
            assert isinstance(job, TrainingRun)
            if answer.failure is None:
                self._done[job.key] = answer.found
                journal.add(job.key, Entry({"training": job.name}, answer.found, None, answer.tries))
                job.progress(int(job.spec["steps"]))
            elif answer.failure.kind not in (FAILED, LOST):
                raised(answer)

        answers = dict(zip(jobs, carry_out(executor, [_alone(job) for job in jobs.values()], heard), strict=True))
        failures = {key: answer.failure for key, answer in answers.items() if answer.failure}
        return {one.name: self._competitor(one, failures) for one in trainees}

    def _job(self, key: str, one: Trainee, plan: Plan, begun: Path | None, progress: Progress) -> TrainingRun:
        words = f"{one.name}, seed {plan.spec.seed}" if len(one.plans) > 1 else one.name
        note = str(begun / f".{key[:16]}") if begun else None
        return TrainingRun(key, plan.spec.model_dump(mode="json"), words, self._store, self._track, str(self._root),
                           note, lambda step: progress(f"training {words}", step, plan.spec.steps))  # fmt: skip

    def _competitor(self, one: Trainee, failures: Mapping[str, Failure]) -> Competitor | Untrained:
        keys = _keys(one)
        if failure := next((failures[key] for key in keys if key in failures), None):
            return Untrained(one.name, failure)
        trainings = [
            Training(found["seed"], guarded(graph_of(found["graph"]), one.guards), found["evaluations"], found["run"])
            for found in (self._done[key] for key in keys)
        ]
        spent = round(sum(training.evaluations for training in trainings) / len(trainings))
        return Competitor(one.name, trainings[0].graph, "trained", spent,
                          trainings=tuple(trainings))  # fmt: skip


def _keys(one: Trainee) -> list[str]:
    """Keys of its runs in the journal: all that their numbers follow from."""
    specs = [json.dumps(plan.spec.model_dump(mode="json"), sort_keys=True) for plan in one.plans]
    return [hashlib.sha256(f"training {spec}".encode()).hexdigest() for spec in specs]


def _alone(job: TrainingRun) -> Flow[Answer]:
    return (yield [job])[0]
