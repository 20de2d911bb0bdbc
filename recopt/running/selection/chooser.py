"""Which values a run hands on: those with the best score on fresh tasks, told by their score on others.

Every so often the rule that moves the task, with the values that it has then, is run on a fixed set of fresh tasks.
The best so far is kept. What is chosen by a score is not told by that score, which is the least of many noisy ones:
at the end the chosen, the last and the first values are run on another fixed set, and that is what is reported.

None of it touches the run: the tasks have seeds of their own, and the runs are made by engines of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...contracts.task import Task
from ...core.level import TASK
from ...core.state import RunState
from ...engine.engine import Engine
from ...engine.measure import settled
from ..repeats import How, held_at, run_all
from ..spec import Choose
from ..statistics import mean_interval
from .chosen import Chosen, Score, Values


def choosing_seeds(how: Choose) -> list[int]:
    """The seeds of the tasks that are chosen by: 3 · 10⁹ + 0, 1, 2, …, for every run alike.

    Where a run's own tasks and those of comparisons lie is told in :func:`recopt.comparison.report_seeds`.
    """
    return [3_000_000_000 + n for n in range(how.tasks)]


def reporting_seeds(how: Choose) -> list[int]:
    """The seeds of the tasks that are reported on, as many: 4 · 10⁹ + 0, 1, 2, …"""
    return [4_000_000_000 + n for n in range(how.tasks)]


class Scorer:
    """Runs the rule of a run on fresh tasks, in engines of their own.

    Args:
        how: what is asked for, complete.
        engine: of the run.
        task: the family that the run's tasks are sampled from.

    Attributes:
        evaluations, seconds: what it has taken so far.
    """

    def __init__(self, how: Choose, engine: Engine, task: Task) -> None:
        self.how, self.engine, self.task = how, engine, task
        self.evaluations, self.seconds = 0, 0.0

    def score(self, values: Values, seeds: Sequence[int], step: int) -> Score:
        """The score of the rule at ``values``, which it had at ``step`` of the run, on the tasks of ``seeds``."""
        engine, how = self.engine, self.how
        graph = held_at(engine.levels, engine.graph.slots, values)
        dtype = "float64" if engine.dtype == torch.float64 else "float32"
        begin = time.perf_counter()
        runs = run_all("choose", graph, self.task, seeds, How(how.steps, str(engine.device), dtype), test=False)
        scores = runs.score("final" if how.objective == "last" else "sum")
        with np.errstate(invalid="ignore"):
            mean = mean_interval(scores / how.steps if how.objective == "mean" else scores)
        # The evaluation at the end of each run is one more.
        self.evaluations += round(len(seeds) * (runs.evaluations + 1))
        self.seconds += time.perf_counter() - begin
        return Score(step, *mean, int(runs.diverged.sum()), len(seeds))

    def report(self, rules: Mapping[str, tuple[int, Values]]) -> dict[str, Score]:
        """The scores of several values of the rule, on tasks that nothing is chosen by; those of one step run once."""
        found: dict[int, Score] = {}
        for step, values in rules.values():
            if step not in found:
                found[step] = self.score(values, reporting_seeds(self.how), step)
        return {name: found[step] for name, (step, _) in rules.items()}


class Chooser:
    """Keeps the best of the values that the rule of a run has had.

    Args:
        how: what is asked for, complete.
        engine: of the run, before its first step.
        task: the family that the run's tasks are sampled from.
        sink: called with every score that values are chosen by.

    Attributes:
        best: the best score so far, and ``latest`` the latest one.
        waited: how many scores in a row have not been better.
    """

    def __init__(self, how: Choose, engine: Engine, task: Task, sink: Callable[[Score], None]) -> None:
        self.how, self.engine, self.sink = how, engine, sink
        self.scorer = Scorer(how, engine, task)
        self.rules = sorted({level.by for level in engine.levels if level.moves == TASK})
        self.best: Score | None = None
        self.latest: Score | None = None
        self.waited = 0
        self._first = self._kept = self._values(engine.state)
        self._seen = self._scored = self._versions(engine.state)

    @property
    def stopped(self) -> bool:
        """Whether the score has not got better for as long as the run was to wait for."""
        return self.how.patience is not None and self.waited >= self.how.patience

    def due(self) -> RunState | None:
        """The state to score, if it is time to; to be asked after every step.

        It is time after every ``every`` updates, as soon as a level has moved the rule: its window has closed then.
        """
        state = settled(self.engine, strictly=True)
        versions = self._versions(state)
        moved, self._seen = versions != self._seen, versions
        every, last = self.how.every or 1, self.latest.step if self.latest else 0
        return state if moved and state.step // every > last // every else None

    def score(self, state: RunState) -> Score:
        """Score the rule as it is in ``state``, and keep it if it is the best."""
        values = self._values(state)
        found = self.latest = self.scorer.score(values, choosing_seeds(self.how), state.step)
        self._scored = self._versions(state)
        if found.beats(self.best):
            self.best, self._kept, self.waited = found, values, 0
        else:
            self.waited += 1
        self.sink(found)
        return found

    def end(self, report: bool = True) -> Chosen:
        """What the run hands on; with ``report``, the last values are scored too, and all of it on other tasks."""
        state = settled(self.engine, strictly=True)
        if report and (self.latest is None or self._versions(state) != self._scored):
            self.score(state)
        last = self._values(state)
        values = last if self.best is None else self._kept
        return Chosen(
            values, self.best, state.step, self._report(values, last, state.step) if report else {},
            self.how.objective, self.how.steps, self.stopped, self.scorer.evaluations, self.scorer.seconds,
        )  # fmt: skip

    def _report(self, values: Values, last: Values, step: int) -> dict[str, Score]:
        # By the step at which they were scored, which for the last values may be before the run's last step.
        end = self.latest.step if self.latest else step
        chosen = end if self.best is None else self.best.step
        found = self.scorer.report({"chosen": (chosen, values), "last": (end, last), "before": (0, self._first)})
        return {**found, "last": found["last"]._replace(step=step)}

    def _values(self, state: RunState) -> Values:
        return {name: [p.detach() for p in state.slots[name].params] for name in self.engine.graph.slots}

    def _versions(self, state: RunState) -> list[int]:
        return [state.slots[name].version for name in self.rules]

    # saving

    def plain(self) -> dict[str, Any]:
        """Where it is, as a checkpoint keeps it."""
        return {
            "best": self.best and self.best._asdict(), "latest": self.latest and self.latest._asdict(),
            "kept": dict(self._kept), "scored": self._scored, "seen": self._seen, "waited": self.waited,
            "evaluations": self.scorer.evaluations, "seconds": self.scorer.seconds,
        }  # fmt: skip

    def load(self, plain: Mapping[str, Any]) -> None:
        """Go to where :meth:`plain` was."""
        self.best = plain["best"] and Score(**plain["best"])
        self.latest = plain["latest"] and Score(**plain["latest"])
        self._kept = {name: [p.to(self.engine.device) for p in values] for name, values in plain["kept"].items()}
        self._scored, self._seen = list(plain["scored"]), list(plain["seen"])
        self.waited = plain["waited"]
        self.scorer.evaluations, self.scorer.seconds = plain["evaluations"], plain["seconds"]


def chosen_in(note: Any, how: Choose | None, engine: Engine, task: Task) -> Chosen | None:
    """The values to hand on, as a checkpoint's note has them: those chosen at the run's end, or else the best so far.

    None for a run that chooses none.
    """
    if how is None or not isinstance(note, dict):
        return None
    if note.get("chosen"):
        return Chosen.read(note["chosen"])
    chooser = Chooser(how, engine, task, lambda score: None)
    chooser.load(note["choosing"])
    return chooser.end(report=False)
