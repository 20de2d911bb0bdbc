"""dog, cocob and prodigy: no number to choose, so neither the loss's scale nor the start's may need one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recopt
from recopt.plugins import load_strategy

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


@pytest.mark.parametrize("name", ["dog", "cocob", "prodigy"])
@pytest.mark.parametrize("distance", [0.1, 10.0])
def test_the_minimum_is_found_wherever_it_is(name: str, distance: float) -> None:
    assert descend(name, 1.0, distance, 2000)[0] < 0.02


@pytest.mark.parametrize("name", ["dog", "cocob", "prodigy(eps=0)"])
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


@pytest.mark.parametrize("top", ["dog", "cocob"])
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
