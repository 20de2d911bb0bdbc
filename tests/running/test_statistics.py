"""Statistics against values that are known from tables, from closed forms, or by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from recopt.running.statistics import crossed_interval, crossed_paired, holm, mean_interval, median_interval, paired


def test_the_mean_has_the_interval_of_students_t() -> None:
    # Mean 5.5, s = √(55/6); t_{9, 0.975} = 2.262157 (Student's table).
    found = mean_interval(np.arange(1.0, 11.0))
    assert found.value == 5.5
    half = 2.2621571628 * math.sqrt(55 / 6) / math.sqrt(10)
    assert (found.low, found.high) == pytest.approx((5.5 - half, 5.5 + half), rel=1e-9)
    wide = mean_interval(np.arange(1.0, 11.0), level=0.99)
    assert wide.high - 5.5 == pytest.approx(3.2498355416 * math.sqrt(55 / 6) / math.sqrt(10), rel=1e-9)


def test_one_value_has_a_mean_and_no_interval() -> None:
    found = mean_interval([3.0])
    assert found.value == 3.0 and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # The ranks of the 95 % interval of a median, from tables of the sign test (Conover 1999, table A3).
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (25, 8, 18), (100, 40, 61)],
)
def test_the_median_has_the_interval_of_the_sign_test(count: int, low: int, high: int) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    found = median_interval(values)
    assert found == ((count + 1) / 2, low, high)


@pytest.mark.parametrize("count", [6, 7, 12, 33, 200])
def test_the_medians_interval_covers_with_at_least_its_level_and_not_one_rank_more(count: int) -> None:
    found = median_interval(np.arange(1.0, count + 1))
    k = int(found.low)
    below = [sum(math.comb(count, i) for i in range(m)) / 2**count for m in (k, k + 1)]
    assert below[0] <= 0.025 < below[1]


def test_a_median_of_five_has_no_interval_of_95_percent() -> None:
    found = median_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3.0 and math.isnan(found.low)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0], level=0.9).low == 1.0  # 1 − 2/32 = 0.94


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    draws = rng.exponential(size=(2000, 40))
    means = [mean_interval(row) for row in draws]
    medians = [median_interval(row) for row in draws]
    assert np.mean([i.low <= 1.0 <= i.high for i in means]) > 0.91  # t is a little short where the tail is long
    assert np.mean([i.low <= math.log(2) <= i.high for i in medians]) == pytest.approx(0.962, abs=0.012)


def test_pairs_are_compared_pair_by_pair() -> None:
    y = np.array([10.0, 200.0, 3000.0, 40.0, 500.0, 60.0])
    x = y - np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = paired(x, y)
    assert found.mean.value == -3.5 and found.median.value == -3.5
    assert found.mean.high < 0  # unpaired, the differences would drown in the spread
    assert found.lower == 1.0
    assert found.p == pytest.approx(2 / 2**6)  # all of one sign, exactly


def test_equal_values_do_not_differ() -> None:
    found = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert found.p == 1.0 and found.lower == 0.5 and found.mean.value == 0.0


def test_holms_correction_is_that_of_the_textbook() -> None:
    # Holm (1979): p(1)·4, then p(2)·3 but no less than before, and so on.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        mean_interval([])
    with pytest.raises(ValueError, match="no sample"):
        median_interval(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="cannot be paired"):
        paired([1.0, 2.0], [1.0])


# several trainings of one rule on the same tasks


def test_one_training_is_judged_as_before() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 1, 12))
    assert crossed_interval(x) == mean_interval(x[0])
    assert crossed_paired(x, y) == paired(x[0], y[0])


def test_the_interval_of_a_table_has_the_spread_over_rows_and_over_columns() -> None:
    x = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])
    # Means over columns 3 and 5, over rows 2, 3 and 7: variances 2 / 2 and 7 / 3, with 1 and 2 degrees of freedom.
    parts = 2 / 2, 7 / 3
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 2)
    assert freedom == pytest.approx(2.985, abs=0.001)  # t_{2.985, 0.975} = 3.1925 (t_3: 3.1824)
    found = crossed_interval(x)
    assert found.value == 4
    assert found.high - 4 == pytest.approx(3.1925 * math.sqrt(sum(parts)), rel=1e-3)
    assert found.low == pytest.approx(8 - found.high)
    # Against zero for each task, it is the same interval, with the p that belongs to it.
    pair = crossed_paired(x, np.zeros((1, 3)))
    assert pair.mean == pytest.approx(found) and 0.05 < pair.p < 0.15 and pair.lower == 0


def test_matched_rows_are_judged_by_the_differences_of_their_pairs() -> None:
    rng = np.random.default_rng(5)
    seeds, tasks = rng.normal(size=(4, 1)), rng.normal(size=(1, 9))
    x, y = (10 * seeds + tasks + rng.normal(size=(4, 9)) for _ in range(2))
    found = crossed_paired(x, y, matched=True)
    by_task, by_seed = (x - y).mean(0), (x - y).mean(1)
    parts = {8: by_task.var(ddof=1) / 9, 3: by_seed.var(ddof=1) / 4}  # by degrees of freedom
    freedom = sum(parts.values()) ** 2 / sum(part**2 / n for n, part in parts.items())
    half = student.ppf(0.975, freedom) * math.sqrt(sum(parts.values()))
    middle = (x - y).mean()
    assert found.mean == pytest.approx((middle, middle - half, middle + half))
    assert found.p == pytest.approx(2 * student.sf(abs(middle) / math.sqrt(sum(parts.values())), freedom))
    # It is the interval of the differences, and far from that of independent trainings; the rest does not change.
    assert found.mean == pytest.approx(crossed_interval(x - y))
    apart = crossed_paired(x, y)
    assert apart.mean.high - apart.mean.low > 5 * (found.mean.high - found.mean.low)
    assert (apart.median, apart.lower, apart.mean.value) == (found.median, found.lower, found.mean.value)
    assert crossed_paired(x[:1], y[:1], matched=True) == paired(x[0], y[0])
    with pytest.raises(ValueError, match="4 repetitions cannot be matched with 3"):
        crossed_paired(x, y[:3], matched=True)


def test_matched_intervals_cover_and_those_of_independent_rows_are_far_too_wide() -> None:
    rng = np.random.default_rng(3)
    seeds, tasks = 3 * rng.normal(size=(2000, 3, 1)), rng.normal(size=(2000, 1, 20))
    x, y = (seeds + tasks + rng.normal(size=(2000, 3, 1)) + rng.normal(size=(2000, 3, 20)) for _ in range(2))
    matched = np.array([crossed_paired(a, b, matched=True).p for a, b in zip(x, y, strict=True)])
    apart = np.array([crossed_paired(a, b).p for a, b in zip(x, y, strict=True)])
    assert 0.02 < np.mean(matched < 0.05) < 0.09  # three pairs: Satterthwaite's t is a little liberal
    assert np.mean(apart < 0.05) < 0.01


def test_rows_without_a_difference_have_none() -> None:
    x = np.ones((3, 4))
    assert crossed_interval(x) == (1, 1, 1)
    assert crossed_paired(x, x).p == 1 and crossed_paired(x, x + 1).p == 0
    assert math.isnan(crossed_interval(np.array([[1.0, math.inf], [1.0, 2.0]])).low)


def test_the_interval_of_a_table_covers_and_that_of_its_tasks_alone_does_not() -> None:
    rng = np.random.default_rng(2)
    rows, columns = rng.normal(size=(2000, 3, 1)), rng.normal(size=(2000, 1, 30))
    tables = rows + columns + 0.5 * rng.normal(size=(2000, 3, 30))
    both = [crossed_interval(table) for table in tables]
    tasks = [mean_interval(table.mean(0)) for table in tables]
    assert np.mean([i.low <= 0 <= i.high for i in both]) > 0.93
    assert np.mean([i.low <= 0 <= i.high for i in tasks]) < 0.6
    others = rng.normal(size=(2000, 2, 1)) + columns  # paired: the tasks' own spread drops out
    ps = [crossed_paired(table, other).p for table, other in zip(tables, others, strict=True)]
    assert np.mean(np.array(ps) < 0.05) < 0.09
