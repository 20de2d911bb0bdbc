"""A rate whose own step moves too: its formula, its derivatives, lines that are parabolas, and steps taken back."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.checking.errors import RecoptError, StateError
from recopt.contracts.strategy import Trial

GENERATOR = torch.Generator().manual_seed(5)
MATRIX = torch.randn(6, 6, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.randn(6, generator=GENERATOR, dtype=torch.float64)


def squares(point: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of squares of MATRIX · point − TARGET, and its gradient."""
    rest = MATRIX.to(point) @ point - TARGET.to(point)
    return rest @ rest, 2 * (rest @ MATRIX.to(point))


def descend(stack: Any, steps: int, dtype: torch.dtype = torch.float64) -> tuple[list[float], Tensor, recopt.Optimizer]:
    """The losses, the last point and the optimizer after some evaluations from 0."""
    point = nn.Parameter(torch.zeros(6, dtype=dtype))
    optimizer, losses = recopt.Optimizer([point], stack), []
    for _ in range(steps):
        with torch.no_grad():
            loss, point.grad = squares(point)
        losses.append(loss.item())
        optimizer.step(loss=loss)
    return losses, point.detach(), optimizer


def by_hand(rate: float, steps: int, kappa: float = 0.7) -> tuple[list[float], Tensor]:
    """The same with torch's Adam, which is given the gradients of the lowest points of lines."""
    point = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    adam = torch.optim.Adam([point], lr=rate)
    losses: list[float] = []
    grad_before, before, loss_before, cosine_before = torch.zeros(6), torch.zeros(6), 0.0, 0.0
    for step in range(steps):
        loss, grad = squares(point.detach())
        losses.append(loss.item())
        if step:
            way = point.detach() - before
            cosine = float(-(grad @ way) / (grad.norm() * way.norm()))
            error = cosine - kappa * cosine_before
            larger = max(abs(cosine), abs(cosine_before))
            kappa = min(max(kappa * math.exp(kappa * cosine_before * error / larger), 1e-3), 1.0)
            start, end, cosine_before = float(-(grad_before @ way)), float(grad @ way), cosine
            assert 2 * (loss - loss_before) == pytest.approx(end - start)  # a parabola
            kept = min(max(start / (start + end), 0.05), math.e)
            adam.param_groups[0]["lr"] *= kept**kappa
            loss, grad = squares(before + kept * way)
            with torch.no_grad():
                point.copy_(before + kept * way)
        loss_before, before, grad_before, point.grad = float(loss), point.detach().clone(), grad, grad
        adam.step()
        promised = float(-(grad @ (point.detach() - before)))
        if promised > loss:
            adam.param_groups[0]["lr"] *= float(loss) / promised
            with torch.no_grad():
                point.copy_(before + float(loss) / promised * (point - before))
    return losses, point.detach()


@pytest.mark.parametrize("rate", [1e-4, 0.03, 3.0])
def test_its_formula(rate: float) -> None:
    expected, point = by_hand(rate, 40)
    losses, found, _ = descend(f"self-tied(lr={rate})", 40)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-7, atol=0)
    torch.testing.assert_close(found, point, rtol=1e-7, atol=1e-12)


def one(kappa: float, steps: int) -> tuple[Tensor, recopt.State, recopt.Strategy]:
    """The point and the state after some evaluations, asked by its forward, and the rule, whose κ has a graph."""
    rule, point = recopt.strategy(f"self-tied(lr=0.01,kappa={kappa})"), [torch.zeros(6, dtype=torch.float64)]
    state = rule.init(point)
    for _ in range(steps):
        loss, grad = squares(point[0].detach())
        update, state = rule(point, [Trial(point, loss, [grad])], state, torch.Generator())
        point = [point[0] + update[0]]
    return point[0], state, rule


@pytest.mark.parametrize("kappa", [0.1, 0.7])
def test_a_loss_has_its_derivative_by_the_step(kappa: float) -> None:
    around = [squares(one(kappa + h, 2)[0].detach())[0] for h in (1e-5, -1e-5)]
    point, _, rule = one(kappa, 2)
    (exact,) = torch.autograd.grad(squares(point)[0], rule._parameters["kappa"])
    torch.testing.assert_close(exact / kappa, (around[0] - around[1]) / 2e-5, rtol=1e-7, atol=0)  # of its logarithm


@pytest.mark.parametrize("kappa", [0.1, 0.7])
def test_the_step_moves_along_its_own_derivative(kappa: float) -> None:
    """That of ½ (c − κ c')² by κ, over the larger cosine, times κ: by central differences."""
    cosines = [one(kappa, steps)[1]["cosine"].detach() for steps in (2, 3)]
    around = [0.5 * (cosines[1] - (kappa + h) * cosines[0]) ** 2 for h in (1e-5, -1e-5)]
    slope = (around[0] - around[1]) / 2e-5
    moved = (-kappa * slope / max(abs(c) for c in cosines)).clamp(max=-math.log(kappa))
    before, after = (one(kappa, steps)[1]["step"].detach() for steps in (2, 3))
    torch.testing.assert_close(after - before, moved, rtol=1e-8, atol=0)


def test_the_step_falls_where_cosines_are_noise() -> None:
    """Gradients without a direction leave the rate where it is; those of a long slope let it grow."""
    dice, found = torch.Generator().manual_seed(1), []
    for slope in (0.0, 3.0):
        point = nn.Parameter(torch.zeros(20, dtype=torch.float64))
        optimizer = recopt.Optimizer([point], "self-tied(lr=1e-5)")
        for _ in range(300):
            point.grad = torch.randn(20, generator=dice, dtype=torch.float64) + slope
            optimizer.step(loss=torch.tensor(1.0))
        found.append(optimizer.hyperparameters())
    noise, steady = found
    assert noise["self_tied.step"] < 0.3
    assert steady["self_tied.step"] > 0.7
    assert 1e-6 < noise["self_tied.rate"] < 1e-4
    assert steady["self_tied.rate"] > 100 * noise["self_tied.rate"]


@pytest.mark.parametrize("rate", [1.0, 1e3, 1e6])
def test_a_line_that_is_a_parabola_is_left_at_its_lowest_point(rate: float) -> None:
    """A bowl has one line: the second evaluation, wherever it is, says where the bottom is."""
    point = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = recopt.Optimizer([point], f"self-tied(lr={rate},base=sgd)")
    for _ in range(2):
        point.grad = 7 * point.detach()
        optimizer.step(loss=3.5 * point.detach() @ point.detach())
    assert point.detach().norm() < 1e-12


@pytest.mark.parametrize("loss", [2.0, -2.0])
def test_no_step_promises_more_than_a_positive_loss(loss: float) -> None:
    point = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    point.grad = torch.arange(1.0, 5.0, dtype=torch.float64)
    recopt.Optimizer([point], "self-tied(lr=1)").step(loss=torch.tensor(loss))
    assert -(point.grad @ point.detach()) == pytest.approx(2.0 if loss > 0 else 10.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_far_too_small_and_far_too_large_are_left(dtype: torch.dtype) -> None:
    best = min(sum(descend(f"adam(lr={rate})", 100, dtype)[0]) for rate in (0.03, 0.1, 0.3))
    for rate in (1e-4, 1.0, 100.0):
        losses, _, optimizer = descend(f"self-tied(lr={rate})", 100, dtype)
        assert losses[-1] < 0.02 * losses[0]
        rates = optimizer.hyperparameters()
        assert 1e-3 < rates["self_tied.rate"] < 1
        assert 1e-3 <= rates["self_tied.step"] <= 1
    assert sum(descend("self-tied(lr=0.0001)", 100, dtype)[0]) < 4 * best


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_changes_nothing(scale: float) -> None:
    def walk(scale: float) -> Tensor:
        point = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        optimizer = recopt.Optimizer([point], "self-tied(base=adam(eps=0))")
        for _ in range(30):
            loss, grad = squares(point.detach())
            point.grad = scale * grad
            optimizer.step(loss=scale * loss)
        return point.detach()

    torch.testing.assert_close(walk(scale), walk(1.0), rtol=1e-9, atol=1e-12)


def test_a_rise_that_the_slopes_do_not_account_for_is_let_pass() -> None:
    """The loss's level jumps between batches of one bowl: no step overshot, so none is taken back."""
    point = nn.Parameter(torch.full((3,), 10.0, dtype=torch.float64))
    optimizer, path = recopt.Optimizer([point], "self-tied(lr=1e-3)"), []
    for step in range(12):
        path.append(point.detach().clone())
        point.grad = point.detach().clone()
        optimizer.step(loss=0.5 * path[-1] @ path[-1] + 500 * (step % 2 == 0))
    assert all(bool((b < a).all()) for a, b in pairwise(path))


def test_a_level_of_losses_that_stays_is_gone_on_from() -> None:
    """From batch 6 on, the loss is five times as high: five shortened steps, and then on."""
    point = nn.Parameter(torch.full((3,), 10.0, dtype=torch.float64))
    optimizer, rates = recopt.Optimizer([point], "self-tied(lr=1e-3)", guard=False), []
    for step in range(24):
        factor = 5 if step >= 6 else 1
        point.grad = factor * point.detach()
        optimizer.step(loss=factor * 0.5 * point.detach() @ point.detach())
        rates.append(optimizer.hyperparameters().get("self_tied.rate", 0.01))
    assert rates[10] < 0.01 * rates[5]
    assert rates[-1] > 100 * rates[10]


@pytest.mark.filterwarnings("ignore:recopt.Optimizer skipped")
@pytest.mark.parametrize("guard", [True, False])
def test_losses_and_gradients_that_are_no_numbers_are_left(guard: bool) -> None:
    """One bad batch, then two in a row, for which the guard takes the last step back."""
    point = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer, rates = recopt.Optimizer([point], "self-tied(lr=0.01)", guard=guard), []
    for step in range(40):
        loss, point.grad = squares(point.detach())
        if step in (0, 5, 6):
            loss, point.grad = loss * math.nan, point.grad * (math.inf if step == 5 else 1)
        optimizer.step(loss=loss)
        rates.append(optimizer.hyperparameters().get("self_tied.rate", 0.01))
    assert rates[7] < 0.1 * rates[4]
    assert squares(point.detach())[0] < 0.5 * TARGET @ TARGET


def test_refusals() -> None:
    with pytest.raises(
        RecoptError, match=r"self-tied\.base must be a rule .*adam, sgd, rmsprop and muon.*'lstm' is none"
    ):
        recopt.strategy("self-tied(base=lstm)")
    with pytest.raises(RecoptError, match=r"'dog' is none"):
        recopt.strategy("self-tied(base=dog)")
    with pytest.raises(RecoptError, match=r"kappa must be between 0.001 and 1, not 2"):
        recopt.strategy("self-tied(kappa=2)")
    with pytest.raises(RecoptError, match="Did you mean 'adam'"):
        recopt.strategy("self-tied(base=adm)")
    point = nn.Parameter(torch.zeros(3))
    point.grad = torch.ones(3)
    with pytest.raises(StateError, match=r"'self_tied' reads the loss"):
        recopt.Optimizer([point], "self-tied").step()
