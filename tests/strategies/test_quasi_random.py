"""Quasi-random search: the sequence of scipy's kind of engine, one scrambling a run, the better of each comparison."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from scipy.stats import qmc
from torch import Generator
from torch.quasirandom import SobolEngine

from recopt import Params, RecoptError, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import descend, make, vector


def proposed(steps: int, seed: int, population: int = 5) -> torch.Tensor:
    """All candidates of a run that rejects them, in units of the box of half width 1."""
    strategy, point = (
        make("quasi-random", spread=1.0, population=population),
        [torch.zeros((), dtype=torch.float64)] * 2,
    )
    state, rng, found = strategy.init(point), Generator().manual_seed(seed), list[torch.Tensor]()
    for _ in range(steps):
        rng.set_state(rng.get_state())  # as a level's is
        points = strategy.propose(point, state, rng)
        found += [torch.stack(p) for p in points[1:]]
        delta, state = strategy(point, [Trial(p, torch.tensor(float(n > 0))) for n, p in enumerate(points)], state, rng)
        assert not torch.stack(delta).any()
    return torch.stack(found)


def test_quasi_random_conforms() -> None:
    assert_conforms(load_strategy("quasi-random"))


def test_candidates_are_one_scrambled_sequence_in_any_steps() -> None:
    whole = SobolEngine(2, scramble=True, seed=7).draw(64, dtype=torch.float64)
    assert torch.equal(proposed(16, 7), 2 * whole - 1)
    assert torch.equal(proposed(64, 7, population=2), 2 * whole - 1)
    assert not torch.equal(proposed(16, 8), 2 * whole - 1)


def test_candidates_fill_the_box_more_evenly_than_independent_ones() -> None:
    even = qmc.discrepancy(((proposed(16, 7) + 1) / 2).numpy())
    apart = qmc.discrepancy(torch.rand(64, 2, generator=Generator().manual_seed(0)).numpy())
    assert even < 0.3 * apart


def test_it_stays_in_the_box_and_moves_to_the_best() -> None:
    def loss(point: Params) -> torch.Tensor:
        return ((point[0] - 0.3) ** 2).sum()

    centre = [torch.tensor(x, dtype=torch.float64) for x in (0.0,)]
    points, states = descend(make("quasi-random", spread=0.5, population=9), loss, centre, 16)
    assert abs(float(points[-1][0]) - 0.3) < 0.01  # 128 points on a length of 1
    assert all(float(loss(b)) <= float(loss(a)) for a, b in pairwise(points))
    assert states[-1]["drawn"] == 128


def test_a_loss_that_is_not_finite_never_wins_and_a_tie_stays() -> None:
    strategy, point, rng = make("quasi-random", population=3), vector(1.0, 2.0), Generator().manual_seed(0)
    state = strategy.init(point)
    found = strategy.propose(point, state, rng)
    for losses, wins in (((1.0, torch.nan, -torch.inf), 0), ((1.0, 1.0, 1.0), 0), ((torch.nan, 5.0, 4.0), 2)):
        delta, _ = strategy(point, [Trial(p, torch.tensor(x)) for p, x in zip(found, losses, strict=True)], state, rng)
        assert torch.allclose(point[0] + delta[0], found[wins][0])


def test_more_coordinates_than_the_sequence_has_are_refused() -> None:
    point = [torch.zeros(30_000, dtype=torch.float64)]
    strategy = make("quasi-random")
    with pytest.raises(RecoptError, match="at most 21,201 coordinates, not 30,000: take random-search"):
        strategy.propose(point, strategy.init(point), Generator())
