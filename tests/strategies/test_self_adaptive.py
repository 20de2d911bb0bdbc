"""The self-adaptive evolution strategy: its equations, what its step does, and starts far too small and too large."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Generator

import recopt
from recopt import Params, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import bowl, descend, ellipsoid, end, make, plateau, rosenbrock, several, vector, warped


def test_it_conforms() -> None:
    assert_conforms(lambda: load_strategy("self-adaptive")(population=5))


def test_a_step_is_that_of_the_equations() -> None:
    strategy, point = make("self-adaptive", population=6, step=0.5, learning=2.0), vector(1.0, -2.0, 0.5)
    unit, ratio = float((point[0] ** 2).mean().sqrt()), -0.3
    state = {**strategy.init(point), "ratio": torch.tensor(ratio, dtype=torch.float64)}
    trials = [Trial(p, rosenbrock(p)) for p in strategy.propose(point, state, Generator().manual_seed(1))]
    factors = [2 / math.sqrt(6) * NormalDist().inv_cdf((k + 0.5) / 6) for k in range(6)]
    noise, rng = [], Generator().manual_seed(1)
    for trial, factor in zip(trials[1:], factors[1:], strict=True):
        noise.append(torch.randn(3, generator=rng, dtype=torch.float64))
        assert torch.allclose(trial.point[0], point[0] + 0.5 * math.exp(ratio + factor) * unit * noise[-1])
    assert torch.equal(trials[0].point[0], point[0])
    places = np.argsort(np.argsort([float(rosenbrock(t.point)) for t in trials]))
    weights = np.maximum(0, math.log(2.5) - np.log(places + 1))
    weights /= weights.sum()
    assert (weights > 0).sum() == 2
    delta, after = strategy(point, trials, state, rng)
    moves = np.array([(t.point[0] - point[0]).numpy() for t in trials])
    assert np.allclose(delta[0].numpy(), weights @ moves, rtol=1e-12)
    assert float(after["ratio"]) == pytest.approx(ratio + weights @ factors, rel=1e-12)


@pytest.mark.parametrize("step", [1e-6, 1e-4, 0.3, 10.0])
def test_it_finds_the_same_from_any_first_step(step: float) -> None:
    start = vector(*[1.0] * 6)
    assert end("self-adaptive", bowl, start, 150, step=step) < 1e-4 * float(bowl(start))
    assert end("evolution", bowl, start, 150, step=1e-6) > 0.9 * float(bowl(start))


def test_only_the_order_of_losses_is_seen() -> None:
    for loss in (ellipsoid, rosenbrock):
        plain, warp = (descend(make("self-adaptive"), f, vector(1, 2, 3), 8)[0][-1] for f in (loss, warped(loss)))
        assert torch.equal(plain[0], warp[0])


def test_a_plateau_leaves_the_point_and_widens_the_step_to_its_bound() -> None:
    points, states = descend(make("self-adaptive", step=0.1), plateau, several(), 40)
    assert all(torch.equal(p, q) for p, q in zip(points[0], points[-1], strict=True))
    assert 0 < float(states[1]["ratio"]) < float(states[-1]["ratio"]) == pytest.approx(math.log(100))
    _, states = descend(make("self-adaptive", step=20), plateau, several(), 3)
    assert float(states[-1]["ratio"]) == 0


def test_where_nothing_is_finite_it_stays_and_shortens_its_step() -> None:
    def broken(point: Params) -> torch.Tensor:
        return torch.tensor(torch.nan, dtype=torch.float64)

    points, states = descend(make("self-adaptive"), broken, several(), 3)
    assert all(torch.equal(p, q) for p, q in zip(points[0], points[-1], strict=True))
    assert float(states[-1]["ratio"]) < float(states[1]["ratio"]) < 0


def test_scores_that_are_noise_do_not_move_the_step() -> None:
    rng = Generator().manual_seed(5)

    def noise(point: Params) -> torch.Tensor:
        return torch.rand((), generator=rng, dtype=torch.float64)

    _, states = descend(make("self-adaptive"), noise, vector(1.0, 2.0), 400)
    changes = torch.stack([b["ratio"] - a["ratio"] for a, b in pairwise(states)])
    assert abs(float(changes.mean())) < 3 * float(changes.std()) / 400**0.5


def test_as_a_level_it_is_the_same_twice_and_records_its_step() -> None:
    runs = [
        recopt.run("quadratic", "sgd(lr=1e-5)/self-adaptive(step=1e-4,population=4)", steps=120, seed=1, track=False,
                   settings=["level2.every=4"])
        for _ in range(2)
    ]  # fmt: skip
    (_, one), (_, other) = (run.history("self_adaptive.step", 2) for run in runs)
    assert (one == other).all() and one.max() > 100 * one[0] and runs[0].losses[-1] == runs[1].losses[-1]
    assert runs[0].hyperparameters["sgd.lr"] > 1e-4
