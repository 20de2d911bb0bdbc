"""CMA-ES: the package itself behind the contract, its state in plain numbers."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from recopt import Params, RecoptError, State, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import bowl, descend, ellipsoid, end, make, plateau, rastrigin, rosenbrock, several, vector, warped

cmaes = pytest.importorskip("cmaes")


@pytest.mark.parametrize(
    "settings", [{}, {"covariance": "diagonal", "population": 4}, {"restarts": "bipop", "population": 4}]
)
def test_cmaes_conforms(settings: dict[str, Any]) -> None:
    assert_conforms(lambda: load_strategy("cmaes")(**settings))


@pytest.mark.parametrize(("covariance", "kind"), [("full", cmaes.CMA), ("diagonal", cmaes.SepCMA)])
@pytest.mark.parametrize("population", [0, 5])
def test_it_is_the_package_on_the_same_draws(covariance: str, kind: Any, population: int) -> None:
    """60 generations on Rosenbrock in 6 coordinates, with the package's generator seeded as ours is."""
    strategy = make("cmaes", covariance=covariance, population=population)
    point: Params = [torch.tensor(x, dtype=torch.float64) for x in (-1.2, 1.0, 0.3, -0.5, 2.0, 0.1)]
    theirs = kind(np.array([float(p) for p in point]), 0.3, population_size=population or None)
    state, rng, seeds = strategy.init(point), Generator().manual_seed(4), Generator().manual_seed(4)
    for step in range(60):
        found = strategy.propose(point, state, rng)
        theirs.reseed_rng(int(torch.randint(2**31, (), generator=seeds)))
        asked = [theirs.ask() for _ in range(theirs.population_size)]
        assert np.allclose(np.array([[float(x) for x in p] for p in found]), np.array(asked), rtol=0, atol=1e-9), step
        losses = [rosenbrock([torch.stack(p)]) for p in found]
        delta, state = strategy(point, [Trial(p, x) for p, x in zip(found, losses, strict=True)], state, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
        theirs.tell([(x, float(rosenbrock([torch.from_numpy(x)]))) for x in asked])
    assert np.allclose([float(p) for p in point], theirs.mean, atol=1e-9)
    assert float(state["ratio"]) * 0.3 == pytest.approx(theirs._sigma, rel=1e-6)
    assert float(rosenbrock([torch.stack(point)])) < 10  # 590 at the start


def restarted(kind: str, first: np.ndarray, seed: int, steps: int) -> tuple[list[float], list[int]]:
    """The least loss of each generation on Rastrigin, and all populations, by the loops in the package's README."""
    seeds, made, sizes = Generator().manual_seed(seed), cmaes.CMA(first.copy(), 0.5), list[int]()
    best, spent, large, doubled = list[float](), {False: 0, True: 0}, False, 0
    size = made.population_size
    for _ in range(steps):
        made.reseed_rng(int(torch.randint(2**31, (), generator=seeds)))
        asked = [made.ask() for _ in range(made.population_size)]
        told = [(x, float(rastrigin([torch.from_numpy(x)]))) for x in asked]
        best, sizes = [*best, min(loss for _, loss in told)], [*sizes, made.population_size]
        made.tell(told)
        if made.should_stop():
            spent[large] += made.population_size * made.generation
            large = kind == "ipop" or not spent[False] < spent[True]
            doubled += large
            luck = float(torch.rand((), generator=seeds, dtype=torch.float64))
            population = size * 2**doubled if large else int(size * (2**doubled) ** (luck**2))
            drawn = torch.randn(len(first), generator=seeds, dtype=torch.float64).numpy()
            made = cmaes.CMA(first + 0.5 * drawn, 0.5, population_size=population)
    return best, sizes


@pytest.mark.parametrize(("kind", "runs"), [("ipop", [6, 12, 24, 48]), ("bipop", [6, 12, 7, 24])])
def test_restarts_are_those_of_the_packages_authors_on_the_same_draws(kind: str, runs: list[int]) -> None:
    best, sizes = restarted(kind, np.array([3.2, -2.3]), 5, 270)
    strategy, point = make("cmaes", restarts=kind, step=0.5), vector(3.2, -2.3)  # a power of two, for equal rounding
    state, rng, held = {**strategy.init(point), "spread": [torch.ones(())]}, Generator().manual_seed(5), math.inf
    state["run"] |= {"mean": point[0], "first": point[0]}  # in units of 1
    for least, size in zip(best, sizes, strict=True):
        found = strategy.propose(point, state, rng)
        losses = [rastrigin(p) for p in found]
        assert float(min(losses[1:])) == pytest.approx(least, rel=1e-6, abs=1e-9)
        assert len(found) == size + 1
        delta, state = strategy(point, [Trial(p, x) for p, x in zip(found, losses, strict=True)], state, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
        held = min(held, float(losses[0]), least)
        assert float(rastrigin(point)) == pytest.approx(held, abs=1e-9)  # what was found is kept
    assert list(dict.fromkeys(sizes)) == runs


def test_restarts_leave_a_minimum_that_one_run_ends_in() -> None:
    start = vector(4.2, -3.7, 2.9)
    assert end("cmaes", rastrigin, start, 400, step=1.0) > 0.9
    assert end("cmaes", rastrigin, start, 450, step=1.0, restarts="ipop") < 1e-9


def test_a_generation_of_equal_losses_is_followed_by_another_run() -> None:
    points, states = descend(make("cmaes", restarts="ipop"), plateau, vector(1.0, 2.0), 3)
    assert [s["run"]["population"] for s in states] == [6, 12, 24, 48]
    assert all(torch.equal(p[0], points[0][0]) for p in points)
    wide = {**states[-1], "run": {**states[-1]["run"], "doubled": 9}}
    strategy, found = make("cmaes", restarts="ipop"), [Trial(points[0], torch.zeros(()))] * 49
    assert strategy(points[0], found, wide, Generator())[1]["run"]["population"] == 6 * 2**9  # and no more


def test_rosenbrocks_valley_is_followed_to_its_end() -> None:
    assert end("cmaes", rosenbrock, vector(-1.2, 1.0, -1.2, 1.0), 300) < 1e-9


def test_the_diagonal_form_learns_scales() -> None:
    assert end("cmaes", ellipsoid, [torch.full((8,), 2.0, dtype=torch.float64)], 400, covariance="diagonal") < 1e-6


def test_above_a_hundred_coordinates_the_covariance_is_diagonal() -> None:
    shapes = {n: make("cmaes").init([torch.ones(n, dtype=torch.float64)])["C"].shape for n in (1, 100, 101)}
    assert shapes == {1: (1, 1), 100: (100, 100), 101: (101,)}
    start = [torch.ones(3000, dtype=torch.float64)]
    assert end("cmaes", bowl, start, 100) < 0.8 * 3000


def test_each_tensor_moves_in_its_own_unit() -> None:
    strategy = make("cmaes", step=0.3, population=400)
    point = [torch.tensor(-9.0, dtype=torch.float64), 0.02 * torch.randn(20, dtype=torch.float64)]
    found = strategy.propose(point, strategy.init(point), Generator().manual_seed(0))
    assert torch.stack([p[0] for p in found]).std() == pytest.approx(0.3, rel=0.1)
    assert torch.stack([p[1] - point[1] for p in found]).std() == pytest.approx(0.3 * 0.02, rel=0.3)


def test_only_the_order_of_losses_matters() -> None:
    one, _ = descend(make("cmaes"), rosenbrock, vector(-1.2, 1.0, 0.5), 60)
    other, _ = descend(make("cmaes"), warped(rosenbrock), vector(-1.2, 1.0, 0.5), 60)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_a_plateau_moves_nothing() -> None:
    points, states = descend(make("cmaes"), plateau, several(), 5)
    assert all(torch.equal(a, b) for a, b in zip(points[-1], points[0], strict=True))
    assert states[-1]["ratio"] == 1


def test_float32_sees_the_same_draws() -> None:
    # In the full form the directions of equal eigenvalues turn with rounding.
    double, _ = descend(make("cmaes", covariance="diagonal"), bowl, several(), 20)
    single, _ = descend(make("cmaes", covariance="diagonal").float(), bowl, [p.float() for p in several()], 20)
    for a, b in zip(double[-1], single[-1], strict=True):
        assert torch.allclose(a, b.double(), atol=1e-3)


def test_a_level_above_may_move_the_step() -> None:
    """The distribution is as wide as the present step says, times what it has learned since."""

    def width(step: float, state: State) -> float:
        found = make("cmaes", step=step, population=200).propose(point, state, Generator().manual_seed(0))
        return float(torch.stack([p[0] for p in found]).std())

    point = [torch.tensor(1.0, dtype=torch.float64)]
    state = {**make("cmaes").init(point), "ratio": torch.tensor(0.5, dtype=torch.float64)}
    assert width(0.3, state) == pytest.approx(0.15, rel=0.1)
    assert width(0.6, state) == pytest.approx(2 * width(0.3, state), rel=1e-6)


@pytest.mark.parametrize("population", [1, 3])
def test_a_population_too_small_to_average_is_refused(population: int) -> None:
    with pytest.raises(RecoptError, match=f"cmaes.population must be at least 4, .*not {population}"):
        make("cmaes", population=population)


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(RecoptError, match=r"'cmaes' needs the package 'cmaes': pip install 'recopt\[search\]'\.$"):
        make("cmaes")
