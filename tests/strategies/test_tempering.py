"""Parallel tempering: exchanges as published, exact distributions at every temperature, barriers that are crossed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from recopt import Params, Strategy, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import bowl, descend, make, plateau, rastrigin, rosenbrock, several, vector


@pytest.mark.parametrize("settings", [{}, {"replicas": 3, "moves": "one"}, {"scale": "absolute", "adaptation": 0}])
def test_tempering_conforms(settings: dict[str, Any]) -> None:
    assert_conforms(lambda: load_strategy("tempering")(**settings))


def exchanges(strategy: Strategy, losses: list[float], step: int, times: int) -> Tensor:
    """The shares of steps after which each replica, at the number of its place, has the point of each other."""
    places = [vector(float(k)) for k in range(len(losses))]
    state = {**strategy.init(places[0]), "steps": step, "others": places[1:]}
    trials = [t for p, loss in zip(places, losses, strict=True) for t in (Trial(p, torch.tensor(loss)), Trial(p))]
    rng, shares = Generator().manual_seed(0), torch.zeros(len(losses), len(losses))
    for _ in range(times):
        delta, after = strategy(places[0], trials, state, rng)
        for k, p in enumerate([[places[0][0] + delta[0]], *after["others"]]):
            shares[k, int(p[0])] += 1 / times
    return shares


def test_neighbours_exchange_as_often_as_the_formula_says() -> None:
    """min(1, exp((1/T_i − 1/T_j)(f_i − f_j))), Hukushima & Nemoto 1996; candidates here are all worse than any."""
    strategy = make("tempering", replicas=3, temperature=0.5, hottest=2.0, scale="absolute")  # 0.5, 1, 2
    even = exchanges(strategy, [1.0, 1.6, 0.4], 0, 3000)
    assert float(even[0, 1]) == pytest.approx(math.exp((2 - 1) * (1.0 - 1.6)), abs=0.03)  # three standard errors
    assert float(even[2, 0]) == float(even[2, 1]) == 0
    odd = exchanges(strategy, [1.0, 0.1, 2.5], 1, 3000)
    assert float(odd[1, 2]) == pytest.approx(math.exp((1 - 0.5) * (0.1 - 2.5)), abs=0.03)
    assert float(exchanges(strategy, [1.0, 0.9, 2.5], 0, 16)[0, 1]) == 1  # the better to the cold one, always
    assert float(exchanges(strategy, [math.nan, 5.0, 2.5], 0, 16)[0, 1]) == 1
    assert float(exchanges(strategy, [1.0, math.inf, 2.5], 0, 16)[0, 0]) == 1


LEVELS = torch.tensor([0.0, 1.5, 0.3, 1.1, 0.8], dtype=torch.float64)


def ring(point: Params) -> Tensor:
    """Five places on a ring, each of one loss."""
    return LEVELS[int(torch.floor(point[0]).remainder(5))]


def test_every_replica_samples_its_own_distribution() -> None:
    """A small discrete target: shares are exp(−f/T) over their sum at each temperature: detailed balance."""
    strategy = make("tempering", replicas=3, temperature=0.4, hottest=1.6, scale="absolute", adaptation=0, step=2.0)
    start = [torch.tensor(0.5, dtype=torch.float64)]
    points, states = descend(strategy, ring, start, 4000)
    for k, heat in enumerate((0.4, 0.8, 1.6)):
        walk = points if k == 0 else [s["others"][k - 1] for s in states]
        seen = torch.stack([torch.floor(p[0]).remainder(5) for p in walk[100:]]).long().bincount(minlength=5) / 3901
        wanted = (-LEVELS / heat).softmax(0)
        assert (seen - wanted).abs().max() < 0.04, heat


def wells(point: Params) -> Tensor:
    """Two wells, the start in the shallow one; a barrier of 50 between."""
    x = point[0][0]
    return torch.minimum(50 * (x - 1) ** 2 + 1, 50 * (x + 1) ** 2)


def test_exchanges_carry_the_cold_replica_over_a_barrier_that_it_does_not_cross_alone() -> None:
    settings = {"temperature": 0.1, "scale": "absolute", "step": 0.5}
    ends = [descend(make("tempering", hottest=50.0, **settings), wells, vector(1.0), 200, s)[0][-1] for s in range(3)]
    alone = [descend(make("tempering", hottest=0.1, **settings), wells, vector(1.0), 200, s)[0][-1] for s in range(3)]
    assert sum(float(p[0]) < 0 for p in ends) >= 2
    assert all(float(p[0]) > 0 for p in alone)


def test_tempering_finds_its_way() -> None:
    for loss, start, most in ((rosenbrock, vector(-1.2, 1.0), 0.3), (rastrigin, vector(3.2, 3.2), 2.0)):
        ends = sorted(float(loss(descend(make("tempering"), loss, start, 300, seed)[0][-1])) for seed in range(3))
        assert ends[1] < most  # 24.2 and 34.3 at the start


@pytest.mark.parametrize("power", [-6, 6])
def test_the_scale_of_the_loss_does_not_matter(power: int) -> None:
    one, _ = descend(make("tempering"), rosenbrock, vector(-1.2, 1.0, 0.5), 60)
    scaled, _ = descend(make("tempering"), lambda p: 10.0**power * rosenbrock(p), vector(-1.2, 1.0, 0.5), 60)
    assert all(torch.allclose(a[0], b[0], rtol=0, atol=1e-6) for a, b in zip(one, scaled, strict=True))


def test_float32_sees_the_same_draws() -> None:
    double, _ = descend(make("tempering"), bowl, several(), 30)
    single, _ = descend(make("tempering").float(), bowl, [p.float() for p in several()], 30)
    for a, b in zip(double, single, strict=True):
        assert all(torch.allclose(p, q.double(), atol=1e-4) for p, q in zip(a, b, strict=True))


def test_a_plateau_changes_no_step_and_no_size() -> None:
    _, states = descend(make("tempering"), plateau, several(), 5)
    assert states[-1]["size"] == 0
    assert not states[-1]["ratio"].any()
