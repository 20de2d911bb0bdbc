"""dog, dowg, cocob, mechanic and prodigy: no number to choose, so neither the loss's scale nor the start's needs one.

schedule-free, which has a rate, is held to its formula here too.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recopt
from recopt.stacks.plugins import load_strategy

CURVES = torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64)


def descend(stack: str, scale: float, distance: float, steps: int) -> tuple[float, torch.Tensor]:
    """The loss over the first one, and the point, after some steps on a bowl whose minimum is ``distance`` away."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = recopt.Optimizer([p], stack)
    first = loss = torch.zeros(())
    for step in range(steps):
        optimizer.zero_grad()
        loss = scale * 0.5 * (CURVES * (p - distance) ** 2).sum()
        first = loss.detach() if step == 0 else first
        loss.backward()
        optimizer.step()
    return float(loss.detach() / first), p.detach()


@pytest.mark.parametrize("name", ["dog", "dowg", "cocob", "prodigy", "mechanic"])
@pytest.mark.parametrize("distance", [0.1, 10.0])
def test_the_minimum_is_found_wherever_it_is(name: str, distance: float) -> None:
    assert descend(name, 1.0, distance, 2000)[0] < 0.02


@pytest.mark.parametrize("name", ["dog", "dowg", "cocob", "prodigy(eps=0)"])
def test_the_scale_of_the_loss_changes_nothing(name: str) -> None:
    reference = descend(name, 1.0, 1.0, 200)[1]
    assert not torch.equal(reference, torch.zeros_like(reference))
    for scale in (1e-6, 1e6):
        assert torch.allclose(descend(name, scale, 1.0, 200)[1], reference, rtol=1e-9)


def test_dog_is_its_formula() -> None:
    """Two steps by hand: r = 1e-6, then the distance come; G the squares so far."""
    _, point = descend("dog", 1.0, 1.0, 2)
    g1 = CURVES * -1.0
    x1 = -1e-6 * g1 / g1.norm()
    g2 = CURVES * (x1 - 1.0)
    expected = x1 - max(1e-6, x1.norm().item()) * g2 / (g1.norm() ** 2 + g2.norm() ** 2).sqrt()
    assert torch.allclose(point, expected, rtol=1e-12, atol=0)


def test_dowg_is_its_formula() -> None:
    """Three steps by hand: every gradient counts with the squared distance come when it was seen."""
    _, point = descend("dowg", 1.0, 1.0, 3)
    x, start, reach, total = torch.zeros_like(CURVES), torch.zeros_like(CURVES), 1e-4, 0.0
    for _ in range(3):
        g = CURVES * (x - 1.0)
        reach = max(reach, (x - start).norm().item())
        total += reach**2 * g.norm().item() ** 2
        x = x - reach**2 / total**0.5 * g
    assert torch.allclose(point, x, rtol=1e-12, atol=0)


def test_mechanic_is_its_formula() -> None:
    """Adam's way at a rate of 1, times scales that bet on it: algorithm 1 with one number of each kind per beta."""
    _, point = descend("mechanic", 1.0, 1.0, 5)
    betas = torch.tensor([0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999], dtype=torch.float64)
    x, way, mean, square = (torch.zeros(3, dtype=torch.float64) for _ in range(4))
    s, v, r, m = torch.zeros(6), torch.zeros(6), torch.zeros(6), torch.full((6,), 1e-6, dtype=torch.float64)
    for t in range(1, 6):
        g = CURVES * (x - 1.0)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        h = way @ (g + 0.01 * s.sum() * g.norm() * x / (x.norm() + 1e-8))
        m, v = torch.maximum(betas * m, h.abs()), betas**2 * v + h * h
        r = (betas * r - s * h).clamp_min(0)
        s = (1e-6 / 6 * m + r) / (v.sqrt() + 1e-8)
        way = way - mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        x = s.sum() * way
    assert torch.allclose(point, x, rtol=1e-9, atol=0)


@pytest.mark.parametrize("settings", [{}, {"lr": 0.1, "beta1": 0.8, "weight_decay": 0.1}])
def test_schedule_free_is_its_formula(settings: dict[str, float]) -> None:
    """The mean of the iterates, and gradients between the two: weights of squared rates, all alike here."""
    given = ",".join(f"{k}={v}" for k, v in settings.items())
    _, point = descend(f"schedule-free({given})", 1.0, 1.0, 6)
    lr, beta1, decay = settings.get("lr", 0.0025), settings.get("beta1", 0.9), settings.get("weight_decay", 0.0)
    y, z, x, square = (torch.zeros(3, dtype=torch.float64) for _ in range(4))
    for t in range(1, 7):
        g = CURVES * (y - 1.0)
        square = 0.999 * square + 0.001 * g * g
        z = z - lr * (g / ((square / (1 - 0.999**t)).sqrt() + 1e-8) + decay * y)
        x = x + (z - x) / t
        y = (1 - beta1) * z + beta1 * x
    assert torch.allclose(point, y, rtol=1e-9, atol=0)


@pytest.mark.parametrize("top", ["dog", "dowg", "cocob"])
def test_they_end_a_tower(top: str) -> None:
    """Over SGD's rate, from one a thousand times too small: the rate grows, and there is nothing left to move."""
    assert not list(load_strategy(top)().parameters())
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = recopt.Optimizer([p], f"sgd(lr=1e-3)/{top}")
    for _ in range(600):
        optimizer.zero_grad()
        (0.5 * (CURVES * (p - 1.0) ** 2).sum()).backward()
        optimizer.step()
    assert optimizer.hyperparameters()["sgd.lr"] > 0.05
    assert float((CURVES * (p.detach() - 1.0) ** 2).sum()) < 0.05
