"""Gradients from the scores of perturbed points: their mean, their parts, what they stand over, and their resume."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import recopt
from recopt.checking.errors import Notice, RecoptError
from recopt.levels.seeds import mix

from .. import differences
from ..differences import Settings, signal_of
from ..engines import Bowl, Noisy, Regression, engine, goes_on_bit_for_bit, graph, losses, params
from .test_forward import Ridged

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*estimates from trials what:recopt.checking.errors.Notice",
    "ignore:The trials of a population:recopt.checking.errors.Notice",
)
STILL = "rule(lr=1e-200)"
"""A rule that hardly moves."""


def told(**more: Any) -> Settings:
    return {2: {"gradient": "es", "every": 3, "sigma": 0.2, **more}}


def score(nudge: dict[int, Tensor], windows: int = 1, **more: Any) -> float:
    """The meta-loss of a window of a run with other hyperparameters, by a level that differentiates."""
    how = {2: {"gradient": "unroll", "every": 3, **more}}
    return float(signal_of(differences.engine(f"rule/{STILL}", how), 2, nudge, windows).loss)


def noise(pairs: int, count: int, sigma: float = 0.2, draws: int = 1) -> list[list[Tensor]]:
    """The displacements that level 2 draws in a run of seed 0, by draw and by number: [pairs]."""
    rng = Generator().manual_seed(mix(0, 2, 1))
    return [[sigma * torch.randn(pairs, generator=rng, dtype=torch.float64) for _ in range(count)]
            for _ in range(draws)]  # fmt: skip


def test_the_estimate_is_that_of_separate_runs_with_the_same_perturbations() -> None:
    found = signal_of(differences.engine(f"rule/{STILL}", told(pairs=4)), 2)
    (drawn,) = noise(4, 3)
    wanted = torch.zeros(3, dtype=torch.float64)
    for row in zip(*drawn, strict=True):
        gap = score(dict(enumerate(row))) - score({i: -e for i, e in enumerate(row)})
        wanted += torch.stack(row) * gap / (2 * 4 * 0.2**2)
    assert found.grads is not None
    assert [float(g) for g in found.grads] == pytest.approx(wanted.tolist(), rel=1e-9)
    assert float(found.loss) == pytest.approx(score({}), rel=1e-14)


def test_the_mean_of_estimates_is_the_derivative_of_the_smoothed_score() -> None:
    sigma, nodes, weights = 0.5, *np.polynomial.hermite_e.hermegauss(12)
    values = [score({0: torch.tensor(sigma * x)}) for x in nodes]
    exact = sum(w * x * v for w, x, v in zip(weights / weights.sum(), nodes, values, strict=True)) / sigma
    made = signal_of(differences.engine(f"rule/{STILL}", told(pairs=600, sigma=sigma, only=("lr",))), 2)
    assert made.grads is not None
    # The gap is about linear in ε, so an estimate's deviation is about √(2/N) of the derivative.
    assert float(made.grads[0]) == pytest.approx(exact, rel=4 * (2 / 600) ** 0.5)
    assert abs(exact) > 1e-3


def test_the_run_goes_on_from_the_present_point() -> None:
    # Nothing of the trials is left in a run whose level does not move: model, its random numbers, batch statistics.
    plain = engine(Noisy(seed=1), "adam")
    over = engine(Noisy(seed=1), "adam/sgd(lr=1e-200)", told(pairs=2))
    plain.run(20)
    over.run(20)
    assert all(map(torch.equal, params(plain), params(over)))
    assert losses(over)[:18] == losses(plain)[:18]
    assert over.budget.levels[1].gradient == 4 * 3 * 6


CASES: dict[str, tuple[type[Any], str, Settings]] = {
    "hyperparameters": (Regression, "adam/sgd", told(pairs=2)),
    "random numbers, episodes": (Noisy, "adam/adam", told(pairs=2, episode=6)),
    "a learned rule": (Regression, "mlp-rule/adam", told(pairs=2, episode=9)),
    "below another": (Regression, "adam/sgd/hypergradient", told(pairs=2)),
    "annealing below": (
        Regression, "adam/annealing/sgd", {2: {"every": 2}, 3: {"gradient": "es", "every": 2, "pairs": 2}}),
    "twice": (Regression, "adam/sgd/sgd", {n: {"gradient": "es", "every": 2, "pairs": 1} for n in (2, 3)}),
    "a loss": (Ridged, "sgd/loss:adam", {2: {"gradient": "es", "every": 2, "pairs": 2}}),
    "episodes that grow": (Regression, "adam/sgd", told(pairs=2, episode=9, curriculum=2)),
    "the start of episodes": (Bowl, "sgd/init:adam", {2: {"gradient": "es", "episode": 3, "pairs": 2}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    task, stack, settings = CASES[name]
    goes_on_bit_for_bit(lambda: engine(task(seed=2), stack, settings), 16, 34, tmp_path / "a")
    made = engine(task(seed=2), stack, settings)
    slot = made.levels[-1].moves
    before = params(made, slot)
    made.run(34)
    assert not all(map(torch.equal, before, params(made, slot)))


def test_gradients_move_the_temperature_of_annealing() -> None:
    made = engine(Regression(seed=2), "adam/annealing/sgd", {3: {"gradient": "es", "every": 3, "pairs": 3}})
    assert made.graph.levels[2].only == ()
    before = dict(zip(made.graph.names["annealing"], params(made, "annealing"), strict=True))
    made.run(1200)
    after = dict(zip(made.graph.names["annealing"], params(made, "annealing"), strict=True))
    assert before.keys() == after.keys()
    assert any(float(before[k]) != float(after[k]) for k in before)


def test_thousands_of_weights_are_moved() -> None:
    made = engine(Regression(seed=2), "lstm/adam", {2: {"gradient": "es", "every": 2, "pairs": 3}}, dtype=torch.float32)
    before = params(made, "lstm")
    assert sum(p.numel() for p in before) > 1000
    made.run(7)
    assert all(bool((a != b).any()) for a, b in zip(before, params(made, "lstm"), strict=True))


def test_a_level_above_is_told_of_the_updates() -> None:
    settings = {2: {"gradient": "es", "every": 2, "pairs": 3, "normalize": "none"}, 3: {"normalize": "none"}}
    made = engine(Regression(seed=2), "sgd@a/sgd@b(lr=1e-3)/sgd@c(lr=1e-9)", settings)
    signals: list[Any] = []
    deliver = made.tower.up._deliver

    def heard(state: Any, number: int, signal: Any) -> None:
        if number:
            signals.append((number, signal))
        deliver(state, number, signal)

    made.tower.up._deliver = heard  # type: ignore[method-assign]
    made.run(8)
    first, second = [s.grads[0] for n, s in signals if n == 1 and s is not None][:2]
    (above,) = [s.grads[0] for n, s in signals if n == 2 and s is not None][:1]
    assert above == pytest.approx(-1e-3 * first * second, rel=1e-6)  # by the logarithm of the rate of -lr·g


def test_an_objective_without_a_derivative_will_do() -> None:
    made = engine(Regression(seed=2), "adam(lr=0.01)/sgd", told(pairs=20, every=10, objective="steps_to: 0.5"))
    made.run(21)
    assert made.graph.levels[1].perturbs
    assert params(made, "adam")[0] != engine(Regression(seed=2), "adam(lr=0.01)").graph.slots["adam"]._parameters["lr"]


def test_what_would_be_estimated_exactly_elsewhere_is_said() -> None:
    with pytest.warns(Notice, match=r"Level 2 \(sgd moves adam\): gradient=es estimates .* gradient=unroll"):
        graph("adam/sgd", {2: {"gradient": "es"}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph("adam/annealing/sgd", {3: {"gradient": "es"}})


@pytest.mark.parametrize(
    ("stack", "settings", "why"),
    [
        ("adam/sgd", {2: {"sigma": 0.1}}, "'sigma' and 'pairs' are those of perturbed points: set gradient=es"),
        ("adam/annealing", {2: {"pairs": 3}}, "set gradient=es"),
        ("adam/annealing", {2: {"gradient": "es"}}, "'annealing' is zero-order and reads values only"),
        ("adam", {1: {"gradient": "es"}}, "a level that moves the task has gradient=direct"),
        ("adam/sgd", {2: {"gradient": "es", "second_order": True}}, "differentiates nothing"),
        ("adam/sgd", {2: {"gradient": "es", "normalize": "cosine"}}, "a cosine is of updates"),
        ("adam/sgd", {2: {"gradient": "es", "episode": 200, "stagger": True}}, "drop 'stagger'"),
        ("adam/sgd/sgd", {2: {"gradient": "es"}, 3: {"gradient": "unroll", "second_order": True}}, "is estimated from"),
        ("adam/sgd", {2: {"gradient": "es", "population": 4}}, "drop 'population'"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_there_is_refused(stack: str, settings: Settings, why: str) -> None:
    with pytest.raises(RecoptError, match=why):
        graph(stack, settings)


def test_a_loop_of_others_cannot_go_back() -> None:
    with pytest.raises(RecoptError, match=r"Level 2: gradient=es goes back .* use recopt\.run"):
        recopt.Optimizer([torch.zeros(2, requires_grad=True)], "adam/sgd", levels={2: {"gradient": "es"}})
