"""Statistics of repeated runs: intervals for means and medians, and paired differences.

Only methods without settings: Student's t for means, order statistics for medians (no assumption on the distribution),
Wilcoxon's signed ranks for pairs, Holm's correction for multiple tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with its confidence interval; the bounds are NaN if there are too few values."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """The paired difference x − y.

    Attributes:
        mean, median: of the differences, with intervals.
        lower: the share of pairs in which x is below y; ties count half.
        p: of Wilcoxon's signed rank test, two-sided; 1 if all differences are 0.
    """

    mean: Interval
    median: Interval
    lower: float
    p: float


def mean_interval(values: Sequence[float] | Floats, level: float = LEVEL) -> Interval:
    """The mean of ``values`` (n,) with its t interval: mean ± t_{n−1} s / √n. The bounds are NaN for n = 1.

    Raises:
        ValueError: for no values.
    """
    x = _checked(values)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half)


def median_interval(values: Sequence[float] | Floats, level: float = LEVEL) -> Interval:
    """The median of ``values`` (n,) with the interval from x_(k) to x_(n+1−k), both order statistics.

    k is the largest with P(B < k) ≤ (1 − level) / 2 for B ~ Binomial(n, 1/2), so the interval covers the median
    with at least ``level`` for any distribution (Conover 1999, §3.2). The bounds are NaN for n < 6 at 95 %.

    Raises:
        ValueError: for no values.
    """
    x = np.sort(_checked(values))
    from scipy.stats import binom

    n = len(x)
    k = int(binom.ppf((1 - level) / 2, n, 0.5))
    # ppf is the least k with P(B ≤ k) ≥ q, so P(B < k) < q; one more is allowed where that is reached exactly.
    k += bool(binom.cdf(k, n, 0.5) <= (1 - level) / 2)
    middle = float(np.median(x))
    return Interval(middle, float(x[k - 1]), float(x[n - k])) if k >= 1 else Interval(middle, math.nan, math.nan)


def paired(x: Sequence[float] | Floats, y: Sequence[float] | Floats, level: float = LEVEL) -> Paired:
    """The paired difference of ``x`` (n,) and ``y`` (n,).

    Raises:
        ValueError: for no values, or for different numbers of them.
    """
    a, b = _checked(x), _checked(y)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}.")
    d = a - b
    p = 1.0
    if np.any(d != 0):
        from scipy.stats import wilcoxon

        p = float(wilcoxon(d).pvalue)
    lower = float(np.mean(d < 0) + np.mean(d == 0) / 2)
    return Paired(mean_interval(d, level), median_interval(d, level), lower, p)


class _Spread(NamedTuple):
    """The mean of an (m, n) table, with the parts of its variance and their degrees of freedom."""

    mean: float
    parts: Sequence[tuple[float, int]]

    @property
    def variance(self) -> float:
        return sum(variance for variance, _ in self.parts)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom (1946)."""
        below = sum(variance**2 / n for variance, n in self.parts if n)
        return self.variance**2 / below if below else math.inf

    def interval(self, level: float) -> Interval:
        from scipy.stats import t

        half = float(t.ppf((1 + level) / 2, self.freedom)) * math.sqrt(self.variance)
        return Interval(self.mean, self.mean - half, self.mean + half)

    def p(self) -> float:
        """The two-sided p of the t test for mean 0; without any spread 1 if the mean is 0, else 0."""
        from scipy.stats import t

        if self.variance == 0:
            return float(self.mean == 0)
        return float(2 * t.sf(abs(self.mean) / math.sqrt(self.variance), self.freedom))


def crossed_interval(values: Floats, level: float = LEVEL) -> Interval:
    """The mean of ``values`` (m, n): m repetitions (a rule trained from m seeds) of the same n tasks.

    The interval covers both sources of spread. The variance of the mean is taken as s²_m / m + s²_n / n, with s²_m the
    variance of the m means over tasks and s²_n that of the n means over repetitions (two-way random effects; the
    interaction is counted twice, so the interval is a little too wide). Student's t has Satterthwaite's degrees of
    freedom. With m = 1 it is :func:`mean_interval`, which covers the spread over tasks only.

    Raises:
        ValueError: for no values.
    """
    x = _checked(values, 2)
    if len(x) == 1:
        return mean_interval(x[0], level)
    if not np.isfinite(x).all():
        return Interval(float(x.mean()), math.nan, math.nan)
    return _spread(x.mean(0), x).interval(level)


def crossed_paired(x: Floats, y: Floats, level: float = LEVEL, *, matched: bool = False) -> Paired:
    """The paired difference of ``x`` (m, n) and ``y`` (k, n), both repetitions of the same n tasks.

    The repetitions of the two are independent, or ``matched``: the i-th of each share a seed. The variance of the mean
    difference has a part for the tasks, and one for the repetitions of each; matched repetitions have one part
    instead, from their m differences, so what they share cancels (see :func:`crossed_interval`). ``median`` and
    ``lower`` compare the means over repetitions task by task, so they cover the spread over tasks only. p is of
    Student's t with all parts. With m = k = 1 it is :func:`paired`.

    Raises:
        ValueError: for no values, different numbers of tasks, or different numbers of matched repetitions.
    """
    a, b = _checked(x, 2), _checked(y, 2)
    found = paired(a.mean(0), b.mean(0), level)
    if len(a) == len(b) == 1:
        return found
    if matched and len(a) != len(b):
        raise ValueError(f"{len(a)} repetitions cannot be matched with {len(b)}.")
    spread = _spread(a.mean(0) - b.mean(0), *((a - b,) if matched else (a, b)))
    return found._replace(mean=spread.interval(level), p=spread.p())


def _spread(by_task: Floats, *tables: Floats) -> _Spread:
    parts = [(float(by_task.var(ddof=1)) / len(by_task), len(by_task) - 1)] if len(by_task) > 1 else []
    for table in tables:
        if len(table) > 1:
            parts.append((float(table.mean(1).var(ddof=1)) / len(table), len(table) - 1))
    return _Spread(float(by_task.mean()), parts)


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given."""
    out, worst = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, ps[index] * (len(ps) - rank)))
        out[index] = worst
    return out


def _checked(values: Sequence[float] | Floats, dimensions: int = 1) -> Floats:
    x = np.asarray(values, np.float64)
    if x.ndim != dimensions or not x.size:
        wanted = ("sample: give one dimension, and at least one value", "repetitions of tasks: give two dimensions")
        raise ValueError(f"Values of shape {x.shape} are no {wanted[dimensions - 1]}.")
    return x
