"""Steps of tensors that begin at zero, where a rate is tuned: long ones are made, and those that overshot cut back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.core import guard
from recopt.levels.judgement import FIRST, LEAST, MOST, TRIES, TaskGuard, kept

from ..engines import FromZero

DRAW = torch.Generator().manual_seed(0)
W, Y = (torch.randn(*shape, dtype=torch.float64, generator=DRAW) for shape in ((10, 10), (10,)))


def squares(theta: Tensor) -> Tensor:
    return ((W @ theta - Y) ** 2).sum()


def descended(
    stack: str, steps: int, start: float = 0.0, told: bool = True, loss_of: Callable[[Tensor], Tensor] = squares,
    **settings: Any,
) -> tuple[list[Tensor], list[float], recopt.Optimizer]:  # fmt: skip
    """Points, losses and the optimizer."""
    theta = nn.Parameter(torch.full((10,), start, dtype=torch.float64))
    optimizer = recopt.Optimizer([theta], stack, **settings)
    points, losses = [theta.detach().clone()], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(theta)
        loss.backward()
        optimizer.step(**({"loss": loss} if told else {}))
        points.append(theta.detach().clone())
        losses.append(loss.item())
    return points, losses, optimizer


@pytest.mark.parametrize("settings", [{}, {"fused": False}, {"every": 3}])
def test_a_rate_that_is_right_stays_what_it_is(settings: dict[str, Any]) -> None:
    points, losses, optimizer = descended("adam(lr=0.1)/hypergradient", 100, **settings)
    assert float(points[1].abs().max()) == pytest.approx(0.1, rel=1e-6)
    assert sum(losses) < 1.1 * sum(descended("adam(lr=0.1)", 100)[1])
    assert optimizer.hyperparameters()["adam.lr"] > 0.01


@pytest.mark.parametrize("above", ["hypergradient", "adagrad(lr=1)[lr]", "sgd/sgd", "hypergradient/self"])
@pytest.mark.parametrize("rate", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("base", ["adam", "sgd(momentum=0.9)"])
def test_an_absurd_rate_costs_a_few_steps_and_not_the_model(base: str, rate: float, above: str) -> None:
    points, losses, optimizer = descended(f"{base}/{above}", 100, lr=rate)
    assert optimizer.guards()["bounded"] > 0
    assert all(float(p.norm()) <= 20 for p in points)
    assert losses[-1] < 0.2 * losses[0] and sum(x > 2 * losses[0] for x in losses) <= TRIES


def test_where_the_loss_is_not_told_the_first_steps_are_short() -> None:
    points, _, optimizer = descended("adam(lr=0.1)/hypergradient", 3, told=False)
    assert float(points[1].norm()) == pytest.approx(guard.REACH * guard.FLOOR * math.sqrt(10), rel=1e-6)
    assert optimizer.guards()["bounded"] > 0


@pytest.mark.parametrize("start", [0.02, 1.0])
def test_tensors_that_have_a_size_are_moved_by_a_fifth_of_it(start: float) -> None:
    points, _, _ = descended("adam(lr=30)/hypergradient", 12, start)
    for before, after in itertools.pairwise(points):
        assert float((after - before).norm()) <= guard.REACH * float(before.norm()) * (1 + 1e-9)


def test_fixed_rates_are_nobodys_business() -> None:
    points, _, optimizer = descended("adam(lr=30)", 1)
    assert float(points[1].abs().min()) == pytest.approx(30, rel=1e-6)
    assert not any(optimizer.guards().values())


@pytest.mark.parametrize("times", [5.0, 8.0])
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_is_cut_to_the_lowest_point_of_a_parabola(times: float, fused: bool) -> None:
    """f = k/2 ‖θ − 1‖² by gradient descent: at the rate 1/k one step is enough, and ``times`` that goes too far."""
    k, rate = 0.5, 2 * times

    def bowl(theta: Tensor) -> Tensor:
        return k / 2 * ((theta - 0.1) ** 2).sum()

    points, losses, optimizer = descended(f"sgd(lr={rate})/hypergradient(kappa=1e-9)", 2, loss_of=bowl, fused=fused)
    assert losses[1] / losses[0] == pytest.approx((times - 1) ** 2, rel=1e-9)
    torch.testing.assert_close(points[2], torch.full((10,), 0.1, dtype=torch.float64), rtol=0, atol=1e-9)
    assert optimizer.hyperparameters()["sgd.lr"] == pytest.approx(1 / k, rel=1e-6)
    assert optimizer.guards()["bounded"] == 1


@pytest.mark.parametrize(
    ("loss", "slope", "part"),
    [
        (1.5, 2.0, MOST),  # the start had a slope of 1, and the lowest point is at a third
        (13.0, 26.0, LEAST + 0.0269230769),  # before / loss
        (101.0, 250.0, 50 / 300),
        (1.5, 0.4, 1.0),  # the slope does not account for the rise, and there was a loss of 2
        (2.5, 0.4, MOST),  # nor does it here, but none was as high
        (1e9, 2e9, LEAST),
        (math.inf, 1.0, LEAST),
    ],
)
def test_the_part_that_is_kept(loss: float, slope: float, part: float) -> None:
    assert kept(TaskGuard(reference=2.0, seen=3, before=1.0), loss, slope) == pytest.approx(part)


def test_data_that_changed_are_no_overshooting_for_long() -> None:
    """A loss that stays high whatever is kept of the step: after five evaluations the run goes on."""
    far = [0]

    def changed(theta: Tensor) -> Tensor:
        far[0] += 1
        return squares(theta) + (0 if far[0] < 4 else 1e4)

    points, _, optimizer = descended("adam(lr=0.01)/hypergradient", 20, loss_of=changed)
    assert optimizer.guards()["bounded"] == TRIES
    assert float((points[-1] - points[-2]).norm()) > 0


def test_later_losses_are_left_to_what_tells_explosions() -> None:
    rates = []
    theta = nn.Parameter(torch.zeros(10, dtype=torch.float64))
    optimizer = recopt.Optimizer([theta], "adam(lr=0.01)/hypergradient(kappa=1e-9)")
    for step in range(FIRST + 4):
        optimizer.zero_grad()
        loss = squares(theta) * (1 if step != FIRST + 1 else 1.2)
        loss.backward()
        optimizer.step(loss=loss)
        rates.append(optimizer.hyperparameters()["adam.lr"])
    assert rates == pytest.approx([0.01] * len(rates), rel=1e-6)


STACKS = ["adam(lr=1)/hypergradient", "sgd(lr=1e3)/adagrad(lr=1)[lr]", "adam(lr=3)/hypergradient/self",
          "adam[*weight]+sgd(lr=30)[*bias]/hypergradient", "rmsprop(lr=2)/sgd/sgd",
          "muon(lr=99)/adam[lr]", "prodigy(lr=99)/sgd[lr]"]  # fmt: skip


@pytest.mark.parametrize("stack", STACKS)
def test_a_saved_optimizer_goes_on_bit_for_bit(stack: str) -> None:
    def made() -> tuple[nn.Module, recopt.Optimizer]:
        model = FromZero(seed=0).model().double()
        return model, recopt.Optimizer(model.named_parameters(), stack)

    def go(model: nn.Module, optimizer: recopt.Optimizer, batches: range) -> None:
        for index in batches:
            optimizer.zero_grad()
            loss = FromZero(seed=0).loss(model, FromZero(seed=0).batch(index))
            loss.backward()
            optimizer.step(loss=loss)

    model, optimizer = made()
    go(model, optimizer, range(20))
    for middle in (1, 2, 3, 5):
        first, before = made()
        go(first, before, range(middle))
        second, after = made()
        second.load_state_dict(first.state_dict())
        after.load_state_dict(before.state_dict())
        go(second, after, range(middle, 20))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), second.parameters(), strict=True))
        assert after.hyperparameters() == optimizer.hyperparameters() and after.guards() == optimizer.guards()
