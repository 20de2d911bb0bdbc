"""The figures of each competitor, computed from its runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..running.repeats import Floats, Runs
from ..running.statistics import Interval, Paired, crossed_interval, median_interval
from .competitors import Competitor

_END = 0.05
_NAN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Entry:
    """One competitor with its runs."""

    competitor: Competitor
    runs: Runs

    @property
    def name(self) -> str:
        """The competitor's name."""
        return self.competitor.name

    @property
    def seeds(self) -> list[int]:
        """The seeds of its trainings; empty if it was not trained for the comparison."""
        return [training.seed for training in self.competitor.trainings]


@dataclass(frozen=True)
class Figures:
    """The figures of one competitor.

    Attributes:
        score: mean and median over tasks of the score (see ``CompareSpec.measure``). Diverged runs are included,
            with each loss capped at a hundred times the run's first one.
        final: mean and median of the training loss after the last step, capped likewise.
        test: means over tasks of the measurements on the ``test`` split; the loss is capped likewise, other metrics
            are NaN if one of them is.
        diverged: the share of diverged runs: a loss that is not finite, or a last loss above ten times the first.
        rose: the share of runs whose last loss is above the first.
        evaluations, hypergradients: per run.
        prepared: evaluations of tuning or meta-training; None if unknown.
        difference: from the reference, paired by task, and by training if both were trained from the same seeds (see
            :func:`recopt.running.statistics.crossed_paired`); None for the reference itself.
        ratio: 1 + (mean of ``difference``) / (mean of the reference), with the interval of that difference; below 1 is
            better.
        p: of ``difference``, corrected for the number of competitors (Holm).
        trainings: number of trainings. With several, intervals of means include the spread over trainings (see
            :func:`recopt.running.statistics.crossed_interval`), and medians are of the means over trainings.
        break_even: see :func:`break_even`; None if unknown.
    """

    name: str
    kind: str
    score: tuple[Interval, Interval]
    final: tuple[Interval, Interval]
    test: dict[str, Interval]
    diverged: float
    rose: float
    evaluations: float
    hypergradients: float
    prepared: int | None
    difference: Paired | None
    ratio: Interval
    p: float | None
    break_even: float | None
    trainings: int = 1


def figures_of(entry: Entry, base: Entry, measure: str, difference: Paired | None, p: float | None) -> Figures:
    """The figures of ``entry`` beside the reference ``base``."""
    runs = entry.runs
    score, last = runs.by_task(runs.score(measure)), runs.by_task(runs.capped[:, -1])
    scale, ratio = float(base.runs.score(measure).mean()), Interval(1.0, 1.0, 1.0)
    if difference is not None:
        ratio = Interval(*(1 + end / scale for end in difference.mean)) if scale else _NAN
    with np.errstate(invalid="ignore"):
        rose = ~(runs.losses[:, -1] <= runs.losses[:, 0])
    return Figures(
        entry.name, entry.competitor.kind, _middles(score), _middles(last),
        {key: crossed_interval(runs.by_task(x)) for key, x in runs.measured.items()},
        float(runs.diverged.mean()), float(rose.mean()), runs.evaluations, runs.hypergradients,
        entry.competitor.prepared, difference, ratio, p, break_even(entry, base), runs.times,
    )  # fmt: skip


def _middles(values: Floats) -> tuple[Interval, Interval]:
    """Mean and median of ``values`` (trainings, tasks)."""
    return crossed_interval(values), median_interval(values.mean(0))


def break_even(entry: Entry, base: Entry) -> float | None:
    """The number of tasks after which the savings of ``entry`` have paid for its preparation.

    It is (preparation of ``entry`` − preparation of ``base``) / (evaluations saved per task). The saving is the
    evaluations of a run of ``base`` minus those until the median loss of ``entry`` stays at or below the final loss of
    ``base``, which is the mean of its median curve over the last 5 % of the evaluations.

    Returns:
        0 if ``entry`` took no more preparation, inf if it saves nothing, None if a preparation is unknown or the two
        are the same.
    """
    mine, theirs = entry.competitor.prepared, base.competitor.prepared
    if entry is base or mine is None or theirs is None:
        return None
    curve = np.median(base.runs.capped, axis=0)
    target = float(curve[-max(1, round(_END * len(curve))) :].mean())
    saved = base.runs.evaluations - _reaches(entry.runs, target)
    return max(0.0, (mine - theirs) / saved) if saved > 0 else math.inf


def _reaches(runs: Runs, target: float) -> float:
    """The number of evaluations until the median loss stays at or below ``target``; inf if it never does."""
    above = np.flatnonzero(np.median(runs.capped, axis=0) > target)
    steps = runs.losses.shape[1] - 1
    first = int(above[-1]) + 1 if len(above) else 0
    return math.inf if first > steps else first * runs.evaluations / steps


def bands(runs: Runs) -> dict[str, Floats]:
    """Median, quartiles and mean of the capped losses at every evaluation, each of shape (T + 1,)."""
    low, middle, high = np.quantile(runs.capped, [0.25, 0.5, 0.75], axis=0)
    return {"median": middle, "quartile1": low, "quartile3": high, "mean": runs.capped.mean(0)}


def row(figures: Figures) -> dict[str, Any]:
    """The figures of one competitor as a flat row of a table."""
    found: dict[str, Any] = {"name": figures.name, "kind": figures.kind}
    named = dict(zip(("score", "score_median", "final", "final_median"), (*figures.score, *figures.final), strict=True))
    named |= {f"test_{key}": interval for key, interval in figures.test.items()} | {"ratio": figures.ratio}
    if figures.difference is not None:
        named |= {"difference_mean": figures.difference.mean, "difference_median": figures.difference.median}
    for key, interval in named.items():
        found |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    for key in ("diverged", "rose", "evaluations", "hypergradients", "prepared", "break_even", "trainings"):
        found[key] = getattr(figures, key)
    if figures.difference is not None:
        found |= {"lower_than_reference": figures.difference.lower, "p": figures.difference.p, "p_holm": figures.p}
    return found
