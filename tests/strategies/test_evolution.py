"""The antithetic evolution strategy: its equations, what leaves it as it is, and its way downhill."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .. import engines
from .zero_order import bowl, descend, ellipsoid, end, make, plateau, rosenbrock, several, vector, warped


@pytest.mark.parametrize("settings", [{}, {"utilities": "linear", "adaptation": 0}])
def test_evolution_conforms(settings: dict[str, Any]) -> None:
    assert_conforms(lambda: load_strategy("evolution")(**settings))


@pytest.mark.parametrize("utilities", ["log", "linear"])
def test_a_step_is_the_published_one(utilities: str) -> None:
    """Separable natural evolution strategies (Wierstra et al. 2014, table 2) in numpy, on the draws that were made."""
    strategy = make("evolution", population=6, step=0.5, lr=0.7, utilities=utilities)
    point, rng = vector(1.0, -2.0, 0.5), Generator().manual_seed(0)
    unit = float((point[0] ** 2).mean().sqrt())
    state = {**strategy.init(point), "ratio": [torch.tensor([0.0, -0.5, -1.0], dtype=torch.float64)]}
    sigma = 0.5 * unit * np.exp([0.0, -0.5, -1.0])
    trials = [Trial(p, rosenbrock(p)) for p in strategy.propose(point, state, rng)]
    noise = np.array([(t.point[0] - point[0]).numpy() / sigma for t in trials])
    assert np.allclose(noise[::2], -noise[1::2]) and np.abs(noise).max() > 0.5
    place = np.argsort(np.argsort([float(rosenbrock(t.point)) for t in trials]))
    if utilities == "log":
        weights = np.maximum(0, math.log(6 / 2 + 1) - np.log(place + 1))
        utility = weights / weights.sum() - 1 / 6
    else:
        utility = 4 / 6 * (0.5 - place / 5)
    rate = (3 + math.log(3)) / (5 * math.sqrt(3))
    delta, after = strategy(point, trials, state, rng)
    assert np.allclose(delta[0].numpy(), 0.7 * sigma * (utility @ noise), rtol=1e-12)
    ratio = np.array([0.0, -0.5, -1.0]) + rate / 2 * (utility @ (noise**2 - 1))
    assert np.allclose(after["ratio"][0].numpy(), np.minimum(ratio, 0), rtol=1e-12)


def test_linear_utilities_of_one_pair_give_the_directional_difference(rng: Generator) -> None:
    strategy, point = make("evolution", population=2, utilities="linear", adaptation=0), several()
    state = strategy.init(point)
    found = strategy.propose(point, state, rng)
    better = min(found, key=lambda p: float(bowl(p)))
    delta, after = strategy(point, [Trial(p, bowl(p)) for p in found], state, rng)
    for p, q, d in zip(point, better, delta, strict=True):
        assert torch.allclose(d, 2 * (q - p), rtol=1e-12)
    assert not any(r.any() for r in after["ratio"])


def test_only_the_order_of_losses_matters() -> None:
    one, _ = descend(make("evolution"), rosenbrock, vector(-1.2, 1.0, 0.5), 60)
    other, _ = descend(make("evolution"), warped(rosenbrock), vector(-1.2, 1.0, 0.5), 60)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_a_plateau_moves_nothing() -> None:
    points, states = descend(make("evolution"), plateau, several(), 5)
    assert all(torch.allclose(a, b, atol=1e-15) for a, b in zip(points[-1], points[0], strict=True))
    assert all(torch.allclose(r, torch.zeros_like(r), atol=1e-15) for r in states[-1]["ratio"])


def test_losses_that_are_not_finite_are_the_worst(rng: Generator) -> None:
    strategy, point = make("evolution", population=4), vector(1.0, 2.0)
    state = strategy.init(point)
    found = strategy.propose(point, state, rng)

    def moved(*losses: float) -> Tensor:
        return strategy(point, [Trial(p, torch.tensor(x)) for p, x in zip(found, losses, strict=True)], state, rng)[0][
            0
        ]

    assert torch.equal(moved(math.nan, 1.0, 2.0, 3.0), moved(9.0, 1.0, 2.0, 3.0))
    assert torch.equal(moved(-math.inf, 1.0, 2.0, 3.0), moved(9.0, 1.0, 2.0, 3.0))
    assert not moved(math.nan, math.inf, -math.inf, math.nan).any()


def test_float32_sees_the_same_draws() -> None:
    double, _ = descend(make("evolution"), bowl, several(), 20)
    single, _ = descend(make("evolution").float(), bowl, [p.float() for p in several()], 20)
    for a, b in zip(double[-1], single[-1], strict=True):
        assert torch.allclose(a, b.double(), atol=1e-3)


def test_steps_adapt_to_each_coordinate() -> None:
    """A condition number of a million, of which one step length for all sees the worst."""
    start = [torch.full((8,), 2.0, dtype=torch.float64)]
    assert end("evolution", ellipsoid, start, 400) < 1e-6  # 5e6 at the start
    assert end("evolution", ellipsoid, start, 400, adaptation=0) > 1


def test_thousands_of_weights_move_downhill() -> None:
    """The weights of a linear model, 2,000 of them, by their loss alone."""
    rng = Generator().manual_seed(0)
    x = torch.randn(100, 2000, generator=rng, dtype=torch.float64) / 2000**0.5
    y = torch.randn(100, generator=rng, dtype=torch.float64)

    def loss(point: Params) -> Tensor:
        return ((x @ point[0] - y) ** 2).mean()

    start = [torch.randn(2000, generator=rng, dtype=torch.float64)]
    assert end("evolution", loss, start, 100, population=64) < 0.5 * float(loss(start))


def test_an_odd_population_is_refused() -> None:
    with pytest.raises(RecoptError, match=r"must be even, since points come in pairs, not 5\."):
        make("evolution", population=5)
    with pytest.raises(RecoptError, match="population must be at least 2, not 1"):
        make("evolution", population=1)


def test_the_weights_of_a_learned_rule_move_downhill() -> None:
    """Scored by whole windows of training, over which nobody differentiates."""
    settings = {2: {"every": 20, "episode": 20, "population": 8}}
    made = engines.engine(engines.Bowl(seed=1), "mlp_rule/evolution(step=0.1)", settings, seed=1)
    assert sum(p.numel() for p in made.state.slots["mlp_rule"].params) > 500
    while made.state.levels[1].steps < 60:
        made.step()
    scores = made.sink.series(2, "meta_loss")  # type: ignore[union-attr]
    assert sum(scores[-10:]) < 0.8 * sum(scores[:10])
