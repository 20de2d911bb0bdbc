"""The guard of recopt.Optimizer: bad batches, losses of another size, points that cannot be, wild steps."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import recopt

from ..loops import distance, mlp, steps


def test_non_finite_gradients_are_skipped_counted_and_reported() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    steps(model, optimizer, 5)
    before = [p.detach().clone() for p in model.parameters()]
    values = optimizer.hyperparameters()
    next(iter(model.parameters())).grad.fill_(float("nan"))
    with pytest.warns(RuntimeWarning, match="gradient is not finite") as told:
        optimizer.step()
    assert told[0].filename == __file__  # the line that called it, and not one of ours
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.hyperparameters() == values
    assert optimizer.guards()["skipped"] == 1
    losses = steps(model, optimizer, 30)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("fused", [True, False])
def test_a_point_without_finite_gradients_is_left(fused: bool) -> None:
    """The logarithm of what a step made negative: the step is taken back, smaller ones follow."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = recopt.Optimizer([p], "sgd(lr=0.002)/sgd", fused=fused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            optimizer.zero_grad()
            (100 * (p - 0.95) - (p - 0.95).log()).sum().backward()
            if not torch.isfinite((p - 0.95).log()).all():
                p.grad.fill_(float("nan"))
            optimizer.step()
    assert optimizer.guards()["restored"] > 0
    assert torch.isfinite((p - 0.95).log()).all()


SILENT = pytest.mark.filterwarnings("ignore:recopt.Optimizer skipped a step")


@SILENT
@pytest.mark.parametrize("stack", [None, "adam(lr=0.05)", "sgd(lr=0.05, momentum=0.9)", "adam/sgd"])
def test_losses_of_another_size_from_some_step_on_do_not_stop_training(stack: str | None) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack)
    for step in range(300):
        optimizer.zero_grad()
        loss = distance(w) * (0.01 if step < 12 else 1.0)
        loss.backward()
        optimizer.step(loss=loss)
    assert distance(w) < 0.1 * distance(torch.ones(5))
    assert optimizer.guards()["skipped"] == 1


@SILENT
@pytest.mark.parametrize(("factor", "steps"), [(0.0, 1), (0.01, 12)])
def test_nor_do_they_stop_a_rule_that_compares_them(factor: float, steps: int) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(64, 4)
    optimizer = recopt.Optimizer(model.parameters(), "learned")
    losses = []
    for step in range(100):
        optimizer.zero_grad()
        loss = (model(x).squeeze() - x.sum(1).sin()).square().mean()
        losses.append(loss.item())
        (loss * (factor if step < steps else 1.0)).backward()
        optimizer.step(loss=loss * (factor if step < steps else 1.0))
    assert losses[-1] < 0.1 * losses[0]


@SILENT
@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "sgd(lr=0.05)", "rmsprop", "adagrad(lr=0.3)", "adam/sgd", "lstm"])
def test_many_bad_batches_cost_only_their_steps(stack: str) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack)
    for step in range(400):
        optimizer.zero_grad()
        distance(w).backward()
        if 10 <= step < 70 or 80 <= step < 90:
            assert w.grad is not None
            w.grad.fill_(float("nan"))
        optimizer.step()
    assert optimizer.guards()["skipped"] == 70
    assert bool(w.isfinite().all())
    if stack != "lstm":
        assert distance(w) < 0.5 * distance(torch.ones(5))


@SILENT
@pytest.mark.parametrize("stack", [None, "adam", "adam/sgd", "rmsprop/sgd[*]", "prodigy/adam"])
def test_a_tensor_without_a_gradient_stays_where_it_is_whatever_the_guard_does(stack: str | None) -> None:
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = recopt.Optimizer([a, b, c], stack, **({} if stack in (None, "prodigy/adam") else {"lr": 1.0}))
    kept: list[Tensor] = []
    for step in range(6):
        optimizer.zero_grad()
        loss = ((a - 5) ** 2).sum() + (((b - 5) ** 2).sum() if step < 2 else 0)
        loss.backward()
        if step >= 4:
            assert a.grad is not None
            a.grad.fill_(float("inf"))  # two in a row: the last update is taken back
        optimizer.step()
        if step == 1:
            kept = [b.detach().clone(), c.detach().clone()]
    assert torch.equal(b, kept[0]) and torch.equal(c, kept[1])


@pytest.mark.parametrize("factor", [1e3, 1e4])
def test_a_wild_schedule_is_cut_back(factor: float) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(64, 6)
    optimizer = recopt.Optimizer(model.parameters(), "adam/adagrad(lr=1)[lr]")
    for step in range(40):
        if step == 25:
            optimizer.param_groups[0]["lr"] *= factor
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert (after - before).norm() <= 0.2001 * max(before.norm(), 0.01 * math.sqrt(len(before)))


@pytest.mark.parametrize("fused", [True, False])
def test_a_wild_first_step_is_cut_back_and_its_rate_lowered(fused: bool) -> None:
    model = mlp()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=1000)/adagrad(lr=1)[lr]", fused=fused)
    steps(model, optimizer, 1)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.2, rel=1e-3)
    assert optimizer.guards()["bounded"] == 1
    assert optimizer.hyperparameters()["adam.lr"] < 1
    assert steps(model, optimizer, 30)[-1] < 1
    plain = mlp()
    steps(plain, recopt.Optimizer(plain.parameters(), "adam(lr=1000)"), 1)
    moved = torch.cat([p.detach().flatten() for p in plain.parameters()]) - before
    assert float(moved.abs().median()) == pytest.approx(1000, rel=1e-2)  # alone it is torch.optim.Adam


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


@pytest.mark.parametrize("stack", ["adam/adagrad(lr=1)[lr]", "sgd(momentum=0.9)/adagrad(lr=1)[lr]"])
def test_no_start_value_makes_a_tower_fail_where_a_good_value_exists(stack: str) -> None:
    """Over ten decades of start values the end is the same to within three points of accuracy."""
    x, y = digits()
    right = []
    for rate in (1e-7, 1e-4, 1e-1, 1e3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        optimizer = recopt.Optimizer(model.parameters(), stack, lr=rate)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        right.append((model(x).argmax(1) == y).double().mean().item())
    assert min(right) > 0.95
    assert max(right) - min(right) < 0.03
