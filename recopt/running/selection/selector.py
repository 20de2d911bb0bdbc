"""Choice of the values that a run exports: those with the best score on fresh tasks.

At intervals the rule that moves the task is scored, with its current values, on a fixed set of fresh tasks, and the
best values so far are kept. The best of many noisy scores is too optimistic. So at the end the chosen, the last and
the initial values are scored on another fixed set of tasks, and these scores are reported.

With ``descendants`` a candidate is judged by how what it became goes on: a rule that moves itself may be at its best
just before it is its own ruin.

The run itself is not affected: scoring uses seeds and engines of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...contracts.task import Task
from ...engine.engine import Engine
from ...engine.measure import settled
from ...levels.level import TASK
from ...levels.state import RunState
from ..repeats import RunSettings, held_at, run_all
from ..spec import SelectionSettings
from ..statistics import mean_interval
from .scores import Score, Selection, Values, together


def selection_seeds(how: SelectionSettings) -> list[int]:
    """The seeds of the tasks for choosing: 3 · 10⁹ + 0, 1, 2, …, the same in every run.

    :func:`recopt.comparison.report_seeds` lists the seeds of all other tasks.
    """
    return [3_000_000_000 + n for n in range(how.tasks)]


def reporting_seeds(how: SelectionSettings) -> list[int]:
    """The seeds of the tasks for the final report, equally many: 4 · 10⁹ + 0, 1, 2, …"""
    return [4_000_000_000 + n for n in range(how.tasks)]


class Scorer:
    """Scores the rule of a run on fresh tasks, in engines of its own.

    Args:
        how: complete settings.
        engine: the run's engine.
        task: the task family of the run.

    Attributes:
        evaluations, seconds: spent on scores so far.
    """

    def __init__(self, how: SelectionSettings, engine: Engine, task: Task) -> None:
        self.how, self.engine, self.task = how, engine, task
        self.evaluations, self.seconds = 0, 0.0

    def score(self, values: Values, seeds: Sequence[int], step: int) -> Score:
        """The score of the rule on the tasks of ``seeds``, at the ``values`` that it had at ``step`` of the run."""
        engine, how = self.engine, self.how
        graph = held_at(engine.levels, engine.graph.slots, values)
        dtype = str(engine.dtype).removeprefix("torch.")
        begin = time.perf_counter()
        settings, ranks = RunSettings(how.steps, str(engine.device), dtype), engine.ranks
        mine = ranks.share(len(seeds))  # several processes score some each
        scores, diverged, spent = np.zeros(len(seeds)), 0.0, 0.0
        if chunk := [seeds[n] for n in mine]:
            runs = run_all("choose", graph, self.task, chunk, settings, test=False)
            scores[mine.start : mine.stop] = runs.score("final" if how.objective == "last" else "sum")
            # Each run also evaluates the loss at its end.
            diverged, spent = float(runs.diverged.sum()), len(chunk) * (runs.evaluations + 1)
        *found, diverged, spent = ranks.totals([*scores, diverged, spent])
        scores = np.array(found)
        with np.errstate(invalid="ignore"):
            mean = mean_interval(scores / how.steps if how.objective == "mean" else scores)
        self.evaluations += round(spent)
        self.seconds += time.perf_counter() - begin
        return Score(step, *mean, int(diverged), len(seeds))

    def report(self, rules: Mapping[str, tuple[int, Values]]) -> dict[str, Score]:
        """Scores of the rule at several values, on the report's tasks; values of the same step are scored once."""
        found: dict[int, Score] = {}
        for step, values in rules.values():
            if step not in found:
                found[step] = self.score(values, reporting_seeds(self.how), step)
        return {name: found[step] for name, (step, _) in rules.items()}


class Selector:
    """Keeps the values of a run's rule with the best score.

    Args:
        how: complete settings.
        engine: the run's engine, before its first step.
        task: the task family of the run.
        sink: called with every score, except those of the final report.

    Attributes:
        best, latest: the best and the latest score so far.
        waited: number of scores in a row without a better one.
    """

    def __init__(self, how: SelectionSettings, engine: Engine, task: Task, sink: Callable[[Score], None]) -> None:
        self.how, self.engine, self.sink = how, engine, sink
        self.scorer = Scorer(how, engine, task)
        self.rules = sorted({level.by for level in engine.levels if level.moves == TASK})
        self.best: Score | None = None
        self.latest: Score | None = None
        self.waited = 0
        self._family: Score | None = None  # of the best: its own score with those of its descendants
        self._open: list[tuple[Values, list[Score]]] = []  # candidates with descendants still to come
        self._first = self._kept = self._values(engine.state)
        self._seen = self._scored = self._versions(engine.state)

    @property
    def stopped(self) -> bool:
        """True if ``patience`` is used up: that many scores in a row were no better."""
        return self.how.patience is not None and self.waited >= self.how.patience

    def due(self) -> RunState | None:
        """The state to score if a score is due, else None; to be called after every step.

        A score is due once ``every`` updates have passed and a level has then moved the rule, which closes its window.
        """
        state = settled(self.engine, strictly=True)
        versions = self._versions(state)
        moved, self._seen = versions != self._seen, versions
        every, last = self.how.every or 1, self.latest.step if self.latest else 0
        return state if moved and state.step // every > last // every else None

    def score(self, state: RunState) -> Score:
        """Score the rule in ``state``, and keep the values of the candidate that is now judged if they are the best."""
        values = self._values(state)
        found = self.latest = self.scorer.score(values, selection_seeds(self.how), state.step)
        self._scored = self._versions(state)
        self._open.append((values, []))
        for _, scores in self._open:
            scores.append(found)
        if len(self._open) > self.how.descendants:
            values, scores = self._open.pop(0)
            if (family := together(scores)).beats(self._family):
                self._family, self.best, self._kept, self.waited = family, scores[0], values, 0
            else:
                self.waited += 1
        self.sink(found)
        return found

    def end(self, report: bool = True) -> Selection:
        """The values to export; ``report`` also scores the last values, and all candidates on the report's tasks."""
        state = settled(self.engine, strictly=True)
        if report and (self.latest is None or self._versions(state) != self._scored):
            self.score(state)
        last = self._values(state)
        values = last if self.best is None else self._kept
        return Selection(
            values, self.best, state.step, self._report(values, last, state.step) if report else {},
            self.how.objective, self.how.steps, self.stopped, self.scorer.evaluations, self.scorer.seconds,
        )  # fmt: skip

    def _report(self, values: Values, last: Values, step: int) -> dict[str, Score]:
        # The last values may have been scored before the run's last step: scores are matched by that step.
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
        """The selector's state for a checkpoint."""
        return {
            "best": self.best and self.best._asdict(), "latest": self.latest and self.latest._asdict(),
            "kept": dict(self._kept), "scored": self._scored, "seen": self._seen, "waited": self.waited,
            "family": self._family and self._family._asdict(),
            "open": [[dict(values), [one._asdict() for one in scores]] for values, scores in self._open],
            "evaluations": self.scorer.evaluations, "seconds": self.scorer.seconds,
        }  # fmt: skip

    def load(self, plain: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`plain` returned."""
        self.best = plain["best"] and Score(**plain["best"])
        self.latest = plain["latest"] and Score(**plain["latest"])
        self._family, self._kept = plain["family"] and Score(**plain["family"]), _placed(plain["kept"], self.engine)
        self._open = [
            (_placed(values, self.engine), [Score(**one) for one in scores]) for values, scores in plain["open"]
        ]
        self._scored, self._seen = list(plain["scored"]), list(plain["seen"])
        self.waited = plain["waited"]
        self.scorer.evaluations, self.scorer.seconds = plain["evaluations"], plain["seconds"]


def _placed(values: Values, engine: Engine) -> Values:
    return {name: [p.to(engine.device) for p in own] for name, own in values.items()}


def saved_selection(note: Any, how: SelectionSettings | None, engine: Engine, task: Task) -> Selection | None:
    """The values to export, from a checkpoint's note: those chosen at the run's end, else the best so far.

    None for a run that does not choose.
    """
    if how is None or not isinstance(note, dict):
        return None
    if note.get("chosen"):
        return Selection.read(note["chosen"])
    selector = Selector(how, engine, task, lambda score: None)
    selector.load(note["selection"])
    return selector.end(report=False)
