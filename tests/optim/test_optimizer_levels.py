"""Levels of recopt.Optimizer that learn, search, or read losses, also held-out ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.running.plan import plan

from ..loops import distance, mlp, steps


def test_a_learned_strategy_and_its_own_tuning_run_in_the_loop() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "lstm/adam(lr=1e-3)", every=5)
    before = weights(optimizer)
    losses = steps(model, optimizer, 25)
    assert not same(before, weights(optimizer))
    assert all(torch.isfinite(torch.tensor(losses)))


def test_zero_order_levels_below_and_above() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.full((3,), 2.0))
    optimizer = recopt.Optimizer([p], "annealing")
    losses = [optimizer.step(lambda: p.square().sum()).item() for _ in range(300)]
    assert losses[-1] < 0.2 * losses[0]
    model = mlp()
    above = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/random-search", every=4)
    x = torch.randn(64, 6)
    for _ in range(60):
        above.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        above.step(loss=loss)
    assert above.hyperparameters()["sgd.lr"] != pytest.approx(0.01)


def test_held_out_gradients_move_the_upper_levels() -> None:
    """With a held-out loss that is the training loss negated, the rate moves the other way."""
    rates = []
    for sign in (1.0, -1.0):
        model = mlp()
        optimizer = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/sgd(lr=0.05)")
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        for _ in range(20):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :3]).square().mean()
            held = sign * (model(x) - x[:, :3]).square().mean()
            loss.backward()
            optimizer.step(valid_loss=held)
        rates.append(optimizer.hyperparameters()["sgd.lr"])
    assert rates[0] > 0.015
    assert rates[1] < 0.0075
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/sgd(lr=0.05)")
    for _ in range(20):
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step(valid=lambda m=model: (m(x) - x[:, :3]).square().mean())
    assert optimizer.hyperparameters()["sgd.lr"] == pytest.approx(rates[0], rel=1e-6)


@pytest.mark.parametrize("stack", ["adam/lstm", "sgd/learned", "adam/blend/sgd"])
def test_a_network_may_move_numbers(stack: str) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack, lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = distance(w)
        loss.backward()
        optimizer.step(loss=loss)
    rate = next(value for key, value in optimizer.hyperparameters().items() if key.endswith(".lr"))
    assert math.isfinite(rate) and rate != 1e-2
    assert distance(w) < distance(torch.ones(5))


@pytest.mark.parametrize("loss", ["array", "double", "one element"])
def test_a_loss_may_come_as_any_number(loss: str) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], "learned")
    for _ in range(3):
        optimizer.zero_grad()
        found = distance(w)
        found.backward()
        forms = {"array": lambda x: np.float64(x.item()), "double": Tensor.double, "one element": lambda x: x[None]}
        optimizer.step(loss=forms[loss](found))
    assert distance(w) < distance(torch.ones(5))


def weights(optimizer: recopt.Optimizer) -> list[Tensor]:
    return [p.detach().clone() for p in optimizer._towers.all[0].state.slots["lstm"].params]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("stack", ["lstm", "lstm/adam"])
def test_initial_weights_are_drawn_from_the_seed_as_a_run_draws_them(stack: str) -> None:
    w, before = nn.Parameter(torch.ones(5)), torch.get_rng_state()
    first = weights(recopt.Optimizer([w], stack))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert same(first, weights(recopt.Optimizer([w], stack)))
    assert not same(first, weights(recopt.Optimizer([w], stack, seed=1)))
    for seed in (0, 1):
        drawn = plan("quadratic", stack, seed=seed).graph.slots["lstm"].parameters()
        assert same([p.detach().float() for p in drawn], weights(recopt.Optimizer([w], stack, seed=seed)))


@pytest.mark.parametrize("shape", [(2,), (3,)])
def test_a_tensor_without_gradient_within_a_window_is_as_one_whose_gradient_is_zero(shape: tuple[int, ...]) -> None:
    found = []
    for nothing in (None, torch.zeros(2)):
        a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(shape))
        optimizer = recopt.Optimizer([a, b], "sgd/hypergradient", every=3, lr=0.01)
        for step in range(8):
            optimizer.zero_grad()
            (((a - step) ** 2).sum() + (b**2).sum()).backward()
            if step == 4:
                a.grad = nothing
            optimizer.step()
        found.append(optimizer.hyperparameters())
    assert found[0] == found[1] != {**found[1], "sgd.lr": 0.01}
