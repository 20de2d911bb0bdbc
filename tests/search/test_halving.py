"""Asynchronous successive halving, against Algorithm 2 of Li et al. 2020 done by hand."""

from __future__ import annotations

import math

import pytest

from recopt.search.halving import Halving, rungs


def test_rungs_are_powers_of_eta_up_to_the_end() -> None:
    assert rungs(81, 9, 3) == [9, 27, 81]
    assert rungs(100, 9, 3) == [9, 27, 100]
    assert rungs(80, 9, 3) == [9, 80]
    assert rungs(10, 10, 2) == [10]
    assert rungs(64, 1, 4) == [1, 4, 16, 64]


def test_one_worker_promotes_as_by_hand() -> None:
    """Losses by trial; each is the same at every rung."""
    losses = [5.0, 3.0, 4.0, 1.0, 6.0, 2.0, 7.0, 8.0, 0.5]
    halving, order = Halving(9, 3, 3), list[tuple[int, int]]()
    while (found := halving.next()) is not None:
        order.append(found)
        halving.report(*found, losses[found[0]])
    # Rung 0 has three after trials 0-2, so one goes on: 1, the best. With trial 3 it has four, of which one goes on: 3
    # is the best now. Trial 4 changes nothing; with 5 two of six go on, {3, 5}, and 5 is new. Rung 1 has {1, 3, 5}
    # then: its best, 3, goes on to the end, before anything new begins. Of seven and eight still two go on, of nine
    # three, {8, 3, 5}: 8 is new; it is the best of the four of rung 1 too.
    assert order == [
        (0, 0), (1, 0), (2, 0), (1, 1), (3, 0), (3, 1), (4, 0), (5, 0), (5, 1), (3, 2), (6, 0), (7, 0), (8, 0), (8, 1),
        (8, 2),
    ]  # fmt: skip


def test_what_is_not_known_yet_is_not_counted() -> None:
    halving = Halving(6, 2, 2)
    assert [halving.next() for _ in range(3)] == [(0, 0), (1, 0), (2, 0)]  # three workers
    halving.report(1, 0, 1.0)
    assert halving.next() == (3, 0)  # one of one is no half
    halving.report(0, 0, 2.0)
    assert halving.next() == (1, 1)
    halving.report(2, 0, 0.5)
    halving.report(3, 0, 3.0)
    assert halving.next() == (2, 1)  # two of four go on, and 1 has gone already
    assert [halving.next() for _ in range(3)] == [(4, 0), (5, 0), None]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_trial_that_failed_never_goes_on(bad: float) -> None:
    halving = Halving(4, 2, 2)
    for trial in range(4):
        assert halving.next() == (trial, 0)
        halving.report(trial, 0, bad)
    assert halving.next() is None
