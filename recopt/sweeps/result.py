"""The result of a sweep: its trials, the best of them, and what was saved."""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checking.errors import RecoptError, writing
from ..checking.numbers import finite
from ..plots.sweep import Point, plot_sweep
from ..running.spec import write_spec
from .planning import SweepPlan
from .sweep_spec import write_sweep_spec
from .trial import trial_plan

SPEC, BEST, PICTURE = "sweep.yaml", "best.yaml", "sweep.png"


@dataclass(frozen=True)
class SweptTrial:
    """One trial of a sweep.

    Attributes:
        number: from 1.
        score: the mean over its runs, where it got to; NaN if one of them failed.
        spread: the standard deviation over its runs; NaN for one run.
        step: updates of each run.
        outcome: ``finished``, ``stopped`` (by ``asha``, or none goes on from it), ``went on`` (in another trial),
            ``diverged``, ``frozen``, ``failed``, or ``waiting``.
        test: means on the ``test`` split; empty if it was not finished.
        hyperparameters: those that its first run ended with.
        seconds: of all its runs.
        curve: the step and score of each rung.
        reason: what failed, in a sentence.
        origin: the number of the trial that it goes on from, if it does.
    """

    number: int
    settings: Mapping[str, Any]
    score: float
    spread: float
    step: int
    outcome: str
    test: Mapping[str, float]
    hyperparameters: Mapping[str, float]
    seconds: float
    curve: Sequence[tuple[int, float]] = ()
    reason: str = ""
    origin: int | None = None

    @property
    def words(self) -> str:
        """Its settings in a line."""
        return "  ".join(f"{name} {value_words(value)}" for name, value in self.settings.items())


@dataclass(repr=False)
class Sweep:
    """A finished (or interrupted) sweep.

    Attributes:
        trials: in the order in which they were decided on.
        made: updates made in all runs; ``whole``: those of as many whole runs.
        status: ``FINISHED`` or ``KILLED``.
        run_id, folder: the place of its record; None if it was not recorded.
    """

    plan: SweepPlan
    trials: Sequence[SweptTrial]
    made: int
    whole: int
    status: str = "FINISHED"
    run_id: str | None = None
    folder: Path | None = None

    @property
    def ranked(self) -> list[SweptTrial]:
        """The trials, the best first; where they pause, those that got furthest, and of these the best."""

        def place(one: SweptTrial) -> tuple[bool, int, float]:
            known = math.isfinite(one.score)
            return not known, -one.step if len(self.plan.rungs) > 1 else 0, self.plan.sign * one.score if known else 0.0

        return sorted(self.trials, key=place)

    @property
    def best(self) -> SweptTrial:
        """The finished trial with the best score. Raises RecoptError if there is none."""
        for one in self.ranked:
            if one.outcome in ("finished", "diverged", "frozen") and math.isfinite(one.score):
                return one
        raise RecoptError("No trial of the sweep has a score: see the reasons in its trials.")

    @property
    def failed(self) -> list[SweptTrial]:
        """The trials that failed."""
        return [one for one in self.trials if one.outcome == "failed"]

    @property
    def saved(self) -> float:
        """The share of updates that ``asha`` spared."""
        return 1 - self.made / self.whole if self.whole else 0.0

    def plain(self) -> dict[str, Any]:
        """All of it as JSON."""
        known = any(math.isfinite(one.score) and one.outcome != "stopped" for one in self.trials)
        return {
            "run": self.run_id, "folder": self.folder, "status": self.status, "score": self.plan.spec.score,
            "best": self.best.number if known else None, "updates": self.made, "whole": self.whole,
            "trials": [one.__dict__ for one in self.trials],
        }  # fmt: skip

    def plot(self) -> Any:
        """A matplotlib figure: the score over each setting, and the best so far."""
        spec, points = self.plan.spec, [Point(one.number, one.settings, one.score, one.outcome, one.curve)
                                        for one in self.trials]  # fmt: skip
        logs = {axis.name: axis.range is not None and axis.range.scale == "log" for axis in self.plan.axes}
        title = f"{self.plan.first.spec.task.name}: {len(points)} trials by {spec.by}"
        return plot_sweep(title, spec.score, self.plan.sign < 0, logs, points)

    def save(self, folder: Path) -> None:
        """Write the spec, the table, the picture, all of it as JSON, and the spec of the best run into ``folder``.

        Raises:
            RecoptError: if it cannot be written.
        """
        spec = self.plan.spec
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SPEC).write_text(write_sweep_spec(spec))
            (folder / "sweep.json").write_text(json.dumps(finite(self.plain(), lambda x: None), indent=1, default=str))
            rows = [_row(one) for one in self.trials]
            with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
                table.writeheader()
                table.writerows(rows)
            try:
                if self.plan.schedule.origins:
                    raise RecoptError("No spec repeats a trial that goes on from others.")
                best = trial_plan(spec.run, self.best.settings, spec.seed)
                (folder / BEST).write_text(write_spec(best.spec))
            except RecoptError:  # no trial has a score
                (folder / BEST).unlink(missing_ok=True)
            self.plot().savefig(folder / PICTURE, dpi=150)

    def __repr__(self) -> str:
        lines = [f"{len(self.trials)} trials by {self.plan.spec.by}, score: {self.plan.spec.score}"]
        for one in self.ranked[:10]:
            lines.append(f"{one.number:>6}  {one.score:.4g}  {one.outcome}  {one.words}")
        return "\n".join([*lines, *([f"folder  {self.folder}"] if self.folder else [])])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def value_words(value: Any) -> str:
    """A setting's value, as it is written in a stack."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _row(one: SweptTrial) -> dict[str, Any]:
    origin = {} if one.origin is None else {"from": one.origin}
    return {
        "trial": one.number, **origin, **one.settings, "score": one.score, "spread": one.spread, "updates": one.step,
        "outcome": one.outcome, **{f"test {key}": value for key, value in one.test.items()}, "seconds": one.seconds,
    }  # fmt: skip
