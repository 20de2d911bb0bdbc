"""Statistics of repeated runs: intervals for means and medians, and paired differences.

Only what needs no tuning: Student's t for means, order statistics for medians (no assumption on the distribution),
Wilcoxon's signed ranks for pairs, Holm's correction for several of them.
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
    """An estimate with its confidence interval; the bounds are NaN where there are too few values for one."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """How x differs from y, pair by pair: x − y.

    Attributes:
        mean, median: of the differences, with intervals.
        lower: the share of pairs in which x is below y; ties count half.
        p: of Wilcoxon's signed rank test, two-sided; 1 where there is no difference at all.
    """

    mean: Interval
    median: Interval
    lower: float
    p: float


def mean_interval(values: Sequence[float] | Floats, level: float = LEVEL) -> Interval:
    """The mean of ``values`` (n,) with its t interval: mean ± t_{n−1} s / √n. Without bounds for n = 1.

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
    """The median of ``values`` (n,) with the interval between two of them, x_(k) and x_(n+1−k).

    k is the largest with P(B < k) ≤ (1 − level) / 2 for B ~ Binomial(n, 1/2), so the interval covers the median
    with at least ``level`` whatever the distribution (Conover 1999, §3.2). Without bounds for n < 6 at 95 %.

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
    """How ``x`` (n,) differs from ``y`` (n,), value by value.

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


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given."""
    out, worst = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, ps[index] * (len(ps) - rank)))
        out[index] = worst
    return out


def _checked(values: Sequence[float] | Floats) -> Floats:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"Values of shape {x.shape} are no sample: give one dimension, and at least one value.")
    return x
