"""osgm: rates for each coordinate and a momentum, both learned, and steps that never ascend."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recopt

Loss = Callable[[Tensor], Tensor]
CURVES = torch.logspace(0, 4, 20, dtype=torch.float64)


def bowl(w: Tensor) -> Tensor:
    return 0.5 * (CURVES * (w - 1) ** 2).sum()


def rough(w: Tensor) -> Tensor:
    """A loss with valleys, in which trials are turned down."""
    return (CURVES[:4] * (w**2 + torch.sin(3 * w))).sum()


def descend(loss: Loss, start: Tensor, steps: int) -> tuple[recopt.Optimizer, Tensor, list[tuple[float, Tensor]]]:
    """The optimizer and its parameter after some steps, and the losses and points that it was asked at."""
    w = nn.Parameter(start.clone())
    optimizer, asked = recopt.Optimizer([w], "osgm"), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        asked.append((float(value.detach()), w.detach().clone()))
        optimizer.step(loss=value)
    return optimizer, w.detach(), asked


def by_hand(loss: Loss, start: Tensor, steps: int) -> tuple[list[Tensor], int]:
    """The points that are asked, by plain loops over numbers, and how many of them were turned down."""

    def at(w: Tensor) -> tuple[float, Tensor]:
        leaf = w.clone().requires_grad_()
        value = loss(leaf)
        return float(value.detach()), torch.autograd.grad(value, leaf)[0]

    x, (f, g) = start.clone(), at(start)
    asked, turned_down = [start.clone()], 0
    rates = 1e-3 * (1 + x.norm()) / g.norm() * torch.ones_like(x)
    way, squares, beta, turns, curvature = torch.zeros_like(x), torch.zeros_like(x), 0.95, 0.0, 0.0
    for number in range(1, steps):
        there = x - rates * g + beta * way
        asked.append(there)
        new_f, new_g = at(there)
        found = float((new_g - g).norm() / (there - x).norm())
        taken = new_f < f
        if number > 1:
            size = g @ g + 0.25 * curvature**2 * (way @ way)
            slope = -rates * g * new_g / size
            squares = 0.97 * squares + slope**2
            turn = float(new_g @ way / size)
            turns += turn**2
            rates = rates * torch.exp(-0.5 * slope / squares.sqrt())
            if turn:
                beta = min(max(beta - 3.0 * turn / turns**0.5, 0.0), 0.999)
            if taken:
                curvature = curvature**0.9 * found**0.1
            else:
                rates, beta, turned_down = 0.9 * rates, 0.7 * beta, turned_down + 1
        else:
            curvature = found
        way = there - x if taken else torch.zeros_like(x)
        if taken:
            x, f, g = there, new_f, new_g
        if number == 1:
            rates = torch.ones_like(x) * min(1 / curvature, float((1 + x.norm()) / g.norm()))
    return asked, turned_down


@pytest.mark.parametrize(("loss", "start"), [(bowl, torch.zeros(20)), (rough, torch.tensor([2.0, -1.0, 0.3, 4.0]))])
def test_it_is_its_formula(loss: Loss, start: Tensor) -> None:
    steps = 60
    expected, turned_down = by_hand(loss, start.double(), steps)
    assert turned_down > 1
    for (_, point), known in zip(descend(loss, start.double(), steps)[2], expected, strict=True):
        assert torch.allclose(point, known, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_loss_changes_nothing(factor: float) -> None:
    here = descend(bowl, torch.zeros(20).double(), 30)[1]
    scaled = descend(lambda w: factor * bowl(w), torch.zeros(20).double(), 30)[1]
    assert torch.allclose(here, scaled, rtol=1e-6)


def test_curvatures_of_ten_thousand_to_one_are_descended_without_a_rate() -> None:
    """Gradient descent at the best rate, 2 / (1 + 10⁴), leaves 0.96 of the flattest way after 200 steps."""
    _, point, _ = descend(bowl, torch.zeros(20).double(), 200)
    assert float((point - 1).abs().max()) < 1e-4


def test_the_model_is_used_at_the_best_point_that_was_tried() -> None:
    optimizer, _, asked = descend(rough, torch.tensor([2.0, -1.0, 0.3, 4.0]).double(), 40)
    losses = [value for value, _ in asked]
    assert any(after > before for before, after in itertools.pairwise(losses))
    (w,) = optimizer.param_groups[0]["params"]
    with optimizer.averaged():
        assert torch.equal(w, min(asked, key=lambda found: found[0])[1])


def test_its_state_goes_on_bit_for_bit() -> None:
    start = torch.zeros(20).double()
    whole = descend(bowl, start, 20)[1]
    optimizer, point, _ = descend(bowl, start, 12)
    w = nn.Parameter(point.clone())
    again = recopt.Optimizer([w], "osgm")
    again.load_state_dict(optimizer.state_dict())
    for _ in range(8):
        again.zero_grad()
        value = bowl(w)
        value.backward()
        again.step(loss=value)
    assert torch.equal(w.detach(), whole)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_is_measured_at_the_best_point(dtype: str) -> None:
    run = recopt.run("quadratic", "osgm", steps=100, dtype=dtype, track=False, measure=0, progress=False)
    assert run.after["loss"] < 1e-5 * run.before["loss"]
