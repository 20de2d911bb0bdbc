"""A rough run, saved, loaded and copied after every step, goes on bit for bit."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from ..rough import AFTER, ALONE, HIGH, STEPS, TOWERS, WILD, batch

CASES: list[tuple[str, dict[str, Any]]] = [
    *((stack, {}) for stack in (*ALONE, *TOWERS, *HIGH)),
    *((stack, {"fused": False}) for stack in ("adam(lr=2)/adagrad[lr]", "rmsprop(momentum=0.5,lr=3)/sgd/sgd")),
    *((f"{rule}/{above}", {"every": 3, "fused": False}) for rule in WILD for above in ("hypergradient", "sgd/sgd")),
    *((f"{rule}/hypergradient", {"every": 3}) for rule in WILD),
    ("lstm/adam", {"every": 3}), ("lstm/self", {"every": 3}), ("adam(lr=2)/self", {}),
    ("adam(lr=2)/hypergradient/self", {}), ("adam(lr=2)/adam/self", {"every": 3}),
    ("adam(lr=2)/sgd", {"levels": {1: {"average": 8.0}}}),
]  # fmt: skip
Seen = tuple[list[Tensor], list[float]]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def step(net: nn.Module, optimizer: recopt.Optimizer, number: int) -> Seen:
    inputs, targets = batch(number)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((net(inputs) - targets) ** 2).mean()
        loss.backward()
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        optimizer.step(closure)
    return [p.detach().clone() for p in net.parameters()], list(optimizer.hyperparameters().values())


def same(one: Seen, other: Seen) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True)) and one[1] == other[1]


@pytest.mark.parametrize(("stack", "more"), CASES)
def test_a_rough_run_goes_on_bit_for_bit_from_any_step(stack: str, more: dict[str, Any]) -> None:
    net = model()
    optimizer = recopt.Optimizer(net.parameters(), stack, **more)
    seen, kept = [], []
    for number in range(STEPS):
        seen.append(step(net, optimizer, number))
        saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        kept.append((saved, copy.deepcopy((net, optimizer))))
    assert optimizer.guards()["skipped"] >= 3
    for number, ((weights, told), (net_copy, copied)) in enumerate(kept[:-1]):
        loaded_net = model()
        loaded_net.load_state_dict(weights)
        loaded = recopt.Optimizer(loaded_net.parameters(), stack, **more)
        loaded.load_state_dict(told)
        for later in range(number + 1, min(STEPS, number + 1 + AFTER)):
            assert same(step(loaded_net, loaded, later), seen[later]), f"loaded after {number}, step {later}"
            assert same(step(net_copy, copied, later), seen[later]), f"copied after {number}, step {later}"
