"""Two cosines in a row as the signal (``normalize: cosines``): hypergradient descent that moves its own step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from .. import engines

DRAW = torch.Generator().manual_seed(3)
W, Y, START = (torch.randn(*shape, dtype=torch.float64, generator=DRAW) for shape in ((8, 8), (8,), (8,)))


def descended(stack: str, steps: int, **settings: Any) -> tuple[list[Tensor], list[Tensor], list[dict[str, float]]]:
    """Points, gradients there, and the hyperparameters after each step."""
    theta = nn.Parameter(5 * START)
    optimizer = recopt.Optimizer([theta], stack, **{"guard": False, **settings})
    points, grads, values = list[Tensor](), list[Tensor](), list[dict[str, float]]()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((W @ theta - Y) ** 2).sum()
        loss.backward()
        assert theta.grad is not None
        points.append(theta.detach().clone())
        grads.append(theta.grad.clone())
        optimizer.step(loss=loss)
        values.append(optimizer.hyperparameters())
    return points, grads, values


@pytest.mark.parametrize(
    "settings", [{}, {"fused": False}, {"levels": {3: {"trust": 100.0}}}], ids=["", "tape", "trust"]
)
@pytest.mark.parametrize("base", ["sgd(lr=1e-4)", "adam(lr=0.01)", "muon(lr=0.01)"])
def test_the_step_of_a_rate_moves_by_itself_times_two_cosines(base: str, settings: dict[str, Any]) -> None:
    """log κ ← log κ + κ c c', at most 0; log α ← log α + κ c; c = cos(−g, Δ)."""
    points, grads, values = descended(f"{base}/hypergradient(kappa=0.3)/self", 60, **settings)
    name = base.partition("(")[0]
    rate, kappa, before = values[0][f"{name}.lr"], 0.3, 0.0
    for t in range(1, 60):
        way = points[t] - points[t - 1]
        cosine = float(-(grads[t] @ way) / (grads[t].norm() * way.norm()))
        kappa = min(kappa * math.exp(kappa * cosine * before), 1.0)
        rate, before = rate * math.exp(kappa * cosine), cosine
        assert values[t]["hypergradient.kappa"] == pytest.approx(kappa, rel=1e-9)
        assert values[t][f"{name}.lr"] == pytest.approx(rate, rel=1e-9)
    assert max(v["hypergradient.kappa"] for v in values) > 0.5


def test_it_is_the_derivative_by_the_step() -> None:
    """∂f/∂κ of the loss after the step that the rate's last move made, over the lengths, by central differences."""

    def loss(kappa: float) -> float:
        points, _, _ = descended(f"sgd(lr=1e-4)/hypergradient(kappa={kappa!r})", 3)
        return float(((W @ points[2] - Y) ** 2).sum())

    points, grads, values = descended("sgd(lr=1e-4)/hypergradient(kappa=0.3)/self", 3)
    moved = math.log(values[2]["hypergradient.kappa"] / 0.3) / 0.3
    lengths = float(grads[2].norm() * (points[2] - points[1]).norm())
    slope = (loss(0.3 + 1e-5) - loss(0.3 - 1e-5)) / 2e-5
    assert -moved * lengths == pytest.approx(slope, rel=1e-7)


def test_several_rates_share_a_step() -> None:
    """Their products are added, over the sum of what each is measured by."""
    theta = [nn.Parameter(torch.full((3,), at, dtype=torch.float64)) for at in (2.0, -1.0)]
    optimizer = recopt.Optimizer(
        [("a", theta[0]), ("b", theta[1])], "sgd@a(lr=1e-3)[a]+sgd@b(lr=1e-2)[b]/hypergradient/self"
    )
    befores, cosines, kappa = list[Tensor](), [0.0, 0.0], 0.1
    for t in range(12):
        optimizer.zero_grad()
        loss = (theta[0] ** 2).sum() + 3 * ((theta[1] - theta[0].detach()) ** 2).sum()
        loss.backward()
        if t:
            ways = [p.detach() - b for p, b in zip(theta, befores, strict=True)]
            sizes = [float(w.norm() * p.grad.norm()) for w, p in zip(ways, theta, strict=True)]  # type: ignore[union-attr]
            now = [float(-(w @ p.grad)) / s for w, p, s in zip(ways, theta, sizes, strict=True)]  # type: ignore[operator]
            products = [c * d * s for c, d, s in zip(now, cosines, sizes, strict=True)]
            if t > 1:
                kappa *= math.exp(kappa * sum(products) / sum(sizes))
            cosines = now
        befores = [p.detach().clone() for p in theta]
        optimizer.step(loss=loss)
        assert optimizer.hyperparameters()["hypergradient.kappa"] == pytest.approx(kappa, rel=1e-9)


def test_a_level_keeps_what_it_moves_at_the_most_or_below() -> None:
    _, _, values = descended("adam(lr=0.001)/hypergradient(kappa=3)/self", 4)
    assert values[0]["hypergradient.kappa"] == 3  # as it was given, until it is moved
    assert values[-1]["hypergradient.kappa"] <= 1


def test_only_a_loop_over_cosines_reads_two() -> None:
    def top(stack: str, **settings: Any) -> recopt.Level:
        return engines.engine(engines.Bowl(seed=0), stack, settings.get("levels")).levels[-1]

    assert (top("adam/hypergradient/self").normalize, top("adam/hypergradient/self").trust) == ("cosines", None)
    assert top("adam/hypergradient/self", levels={3: {"trust": 0.1}}).trust == 0.1
    assert top("adam/hypergradient/hypergradient").normalize == "cosine"
    other = top("adam/hypergradient/self", levels={2: {"normalize": "rms"}})
    assert (other.normalize, other.trust) == ("cosine", 0.01)
    assert top("adam/hypergradient/self", levels={3: {"every": 2}}).normalize == "cosine"
    assert (top("adam/sgd/self").normalize, top("adam/sgd/self").trust) == ("rms_all", 0.01)


@pytest.mark.parametrize(
    ("stack", "settings", "said"),
    [
        (
            "adam/sgd/sgd",
            {3: {"normalize": "cosines"}},
            "counts in those of the level beneath: set level2.normalize=cosine",
        ),
        (
            "adam/sgd",
            {2: {"normalize": "cosines"}},
            "counts in those of the level beneath: set level1.normalize=cosine",
        ),
        ("adam", {1: {"normalize": "cosines"}}, "compares updates with what came after them: use it above level 1"),
        (
            "adam/hypergradient/self",
            {3: {"every": 2, "normalize": "cosines"}},
            "of one update without second deri",
        ),
        ("sgd/prodigy[lr]/sgd", {2: {"normalize": "cosine"}, 3: {"normalize": "cosines"}}, "names none"),
    ],
)
def test_what_two_cosines_cannot_be_of_is_refused(stack: str, settings: dict[int, dict[str, Any]], said: str) -> None:
    with pytest.raises(recopt.RecoptError, match=said):
        engines.engine(engines.Bowl(seed=0), stack, settings)


@pytest.mark.parametrize("objective", ["improvement", "sum", "last"])
def test_a_cosine_is_of_any_objective_with_a_gradient(objective: str) -> None:
    settings = {n: {"objective": objective} for n in (2, 3)}
    made = engines.engine(engines.Bowl(seed=0), "sgd(lr=0.01)/hypergradient/self", settings)
    made.run(20)
    assert engines.losses(made)[-1] < engines.losses(made)[0]
