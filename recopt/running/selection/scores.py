"""The chosen values of a run, with their scores and the cost of choosing them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...contracts.strategy import Params

Values = Mapping[str, Params]
"""The values of all strategies, by slot."""


class Score(NamedTuple):
    """The score of a rule on a set of tasks: the mean with its 95 % interval; lower is better.

    Attributes:
        step: updates of the run's task when the rule had these values.
        diverged: number of tasks on which it diverged; their losses are capped.
        tasks: number of tasks.
    """

    step: int
    mean: float
    low: float
    high: float
    diverged: int
    tasks: int

    @property
    def usable(self) -> bool:
        """True if the mean is finite and not every task diverged."""
        return math.isfinite(self.mean) and self.diverged < self.tasks

    @property
    def words(self) -> str:
        """The mean with its interval and the number of diverged tasks, as text."""
        interval = f" ({self.low:.4g} to {self.high:.4g})" if math.isfinite(self.low) else ""
        lost = f", {self.diverged} of {self.tasks} diverged" if self.diverged else ""
        return f"{self.mean:.4g}{interval}{lost}"

    def beats(self, other: Score | None) -> bool:
        """True if it is better than ``other``: fewer diverged tasks, or as many and a lower mean."""
        if not self.usable or other is None or not other.usable:
            return self.usable
        return (self.diverged, self.mean) < (other.diverged, other.mean)


def together(scores: Sequence[Score]) -> Score:
    """The score of a candidate, the first, with its descendants: the mean of their means; not usable if one is not."""
    mean = sum(one.mean if one.usable else math.inf for one in scores) / len(scores)
    return scores[0]._replace(mean=mean, diverged=sum(x.diverged for x in scores), tasks=sum(x.tasks for x in scores))


@dataclass(frozen=True)
class Selection:
    """The values that a run exports.

    Attributes:
        values: those with the best score; the last ones if no score was usable.
        score: their score on the tasks for choosing; None if no score was usable.
        last: the last step of the run.
        report: scores on the report's tasks, which had no part in choosing: of the ``chosen`` values, the ``last``
            ones, and those ``before`` the first step. Empty for an interrupted run.
        objective, steps: the score's objective, and the updates of each task.
        stopped: whether the run ended early because the score did not improve.
        evaluations, seconds: cost of choosing and reporting, not part of the run's budget.
    """

    values: Values = field(repr=False)
    score: Score | None
    last: int
    report: Mapping[str, Score]
    objective: str
    steps: int
    stopped: bool
    evaluations: int
    seconds: float

    @property
    def step(self) -> int:
        """Updates of the run's task when the rule had the values."""
        return self.last if self.score is None else self.score.step

    @property
    def what(self) -> str:
        """A description of the score, without the task's name."""
        tasks = next((score.tasks for score in (*self.report.values(), self.score) if score), 0)
        scored = "the last loss" if self.objective == "last" else f"the {self.objective} of the losses"
        return f"{scored} over {self.steps:,} updates on each of {tasks:,} fresh tasks"

    def facts(self) -> dict[str, Any]:
        """All fields but the values, for JSON."""
        return {
            "step": self.step, "last": self.last, "stopped": self.stopped, "objective": self.objective,
            "steps": self.steps, "score": None if self.score is None else self.score._asdict(),
            "report": {key: score._asdict() for key, score in self.report.items()},
            "spent": {"evaluations": self.evaluations, "seconds": self.seconds},
        }  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """All fields, for a checkpoint."""
        return {"values": dict(self.values), "facts": self.facts()}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Selection:
        """The inverse of :meth:`plain`."""
        values, facts = plain["values"], plain["facts"]
        score, spent = facts["score"], facts["spent"]
        return cls(
            values, None if score is None else Score(**score), facts["last"],
            {key: Score(**one) for key, one in facts["report"].items()}, facts["objective"], facts["steps"],
            facts["stopped"], spent["evaluations"], spent["seconds"],
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Summary metrics for the store, one number per key."""
        found = {"chosen_step": float(self.step), "choose_evaluations": float(self.evaluations)}
        found["choose_seconds"] = self.seconds
        if self.score is not None:
            found |= {"chosen_score": self.score.mean, "chosen_diverged": float(self.score.diverged)}
        for key, score in self.report.items():
            found |= {f"report_{key}": score.mean, f"report_{key}_diverged": float(score.diverged)}
        return found
