"""Basin hopping: slopes, the quasi-Newton matrix, valleys to their end, barriers, and what it does where it cannot."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator

from recopt import RecoptError, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import bowl, descend, ellipsoid, end, make, plateau, rastrigin, rosenbrock, several, vector


@pytest.mark.parametrize("settings", [{}, {"hops": 0}, {"moves": "all", "hops": 2}])
def test_basin_hopping_conforms(settings: dict[str, Any]) -> None:
    assert_conforms(lambda: load_strategy("basin-hopping")(**settings))


def test_slopes_are_gradients_and_the_matrix_maps_their_change_onto_the_move() -> None:
    """B y = s (the secant equation), B symmetric, g that of autograd; in the unit of the tensor."""
    points, states = descend(make("basin-hopping", difference=1e-6), rosenbrock, vector(-1.2, 1.0, 0.5, 2.0), 20)
    unit = states[0]["spread"][0]
    sloped = [n for n in range(1, 21) if states[n]["phase"] == 1]
    assert len(sloped) == 10
    for n in sloped:
        x = points[n][0].clone().requires_grad_()
        wanted = torch.autograd.grad(rosenbrock([x]), x)[0] * unit
        assert torch.allclose(states[n]["g"], wanted, rtol=1e-3, atol=1e-2)
    for before, after in pairwise(sloped):
        if not states[after]["fresh"]:
            change = states[after]["g"] - states[before]["g"]
            assert torch.allclose(states[after]["B"] @ change, states[after]["s"], atol=1e-9)
            assert torch.allclose(states[after]["B"], states[after]["B"].T, atol=1e-9)


@pytest.mark.parametrize("loss", [rosenbrock, ellipsoid])
def test_a_valley_is_followed_to_its_end_in_fewer_trials_than_by_a_population(loss: Any) -> None:
    start = vector(-1.2, 1.0, -1.2, 1.0)
    assert end("basin-hopping", loss, start, 100, difference=1e-7) < 1e-8  # some 650 trials
    assert end("cmaes", loss, start, 80) > 1e-8  # 640


def test_hops_leave_the_minimum_that_the_descent_ends_in() -> None:
    start, settings = vector(3.2, -2.3, 1.9), {"difference": 1e-6}
    assert end("basin-hopping", rastrigin, start, 300, hops=0, **settings) > 0.9
    assert end("basin-hopping", rastrigin, start, 300, **settings) < 1e-8


def test_an_exact_loss_never_rises() -> None:
    points, states = descend(make("basin-hopping"), rastrigin, vector(3.2, -2.3, 1.9), 120)
    losses = [float(rastrigin(p)) for p in points]
    assert all(b <= a for a, b in pairwise(losses))
    assert {s["phase"] for s in states} == {0, 1, 2}


def test_a_plateau_and_losses_that_are_not_finite_move_nothing() -> None:
    for loss in (plateau, lambda p: torch.tensor(math.nan, dtype=torch.float64)):
        points, states = descend(make("basin-hopping"), loss, several(), 4)
        assert all(torch.equal(a, b) for a, b in zip(points[-1], points[0], strict=True))
        assert states[-1]["phase"] == 2
    _, states = descend(make("basin-hopping", hops=0), plateau, several(), 4)
    assert states[-1]["phase"] == 0  # tried again, on what may be another batch


def test_a_line_takes_the_best_of_its_points_and_none_that_is_worse() -> None:
    strategy, point = make("basin-hopping"), vector(1.0, 2.0)
    state = {**strategy.init(point), "phase": 1, "g": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    found = strategy.propose(point, state, Generator())
    lengths = [float((p[0] - point[0]).norm() / state["spread"][0]) for p in found]
    assert lengths == pytest.approx([0.0, *(4.0**k for k in range(1, -8, -1))])  # the first one as long as the step

    def taken(losses: list[float]) -> int:
        trials = [Trial(p, torch.tensor(x)) for p, x in zip(found, losses, strict=True)]
        ahead = point[0] + strategy(point, trials, state, Generator())[0][0]
        return next(n for n, p in enumerate(found) if torch.equal(p[0], ahead))

    assert taken([5, 9, 4, 3, math.nan, -math.inf, 7, 7, 7, 7]) == 3
    assert taken([5, 9, 6, 7, 8, 9, 7, 7, 7, 5]) == 0


def test_float32_goes_the_same_way() -> None:
    double, _ = descend(make("basin-hopping"), bowl, several(), 6)
    single, _ = descend(make("basin-hopping").float(), bowl, [p.float() for p in several()], 6)
    assert all(torch.allclose(p, q.double(), atol=1e-2) for p, q in zip(double[-1], single[-1], strict=True))


def test_too_many_coordinates_are_refused() -> None:
    with pytest.raises(RecoptError, match="at most 1,000 coordinates, not 1,001: take evolution"):
        make("basin-hopping").init([torch.ones(1001)])
