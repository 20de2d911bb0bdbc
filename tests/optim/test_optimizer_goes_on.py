"""A rough run, saved, loaded and copied after every step, goes on bit for bit."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

ALONE = ("sgd(momentum=0.9)", "adam", "rmsprop(momentum=0.5,centered=true)", "adagrad", "kesten", "schedule-free",
         "prodigy", "dog", "dowg", "cocob", "mechanic", "lstm", "rnnprop", "mlp-rule", "residual", "blend")  # fmt: skip
WILD = (
    "sgd(lr=3)",
    "adam(lr=2)",
    "rmsprop(momentum=0.5,lr=3)",
    "schedule-free(lr=3)",
    "prodigy(lr=50)",
    "adagrad(lr=9)",
)
ABOVE = ("adam[*]", "adagrad(lr=1)[lr]", "kesten[lr]", "hypergradient")
TOWERS = [f"{rule}/{above}" for rule in WILD for above in ABOVE]
HIGH = [
    "adam(lr=2)/adam/adam",
    "sgd(lr=3)/lstm[lr]",
    "adam(lr=2)/prodigy[lr]",
    "schedule-free(lr=3)/kesten[lr]/sgd",
    "prodigy(lr=50)/sgd/sgd",
    "lstm/adam",
]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((stack, {}) for stack in (*ALONE, *TOWERS, *HIGH)),
    *((stack, {"fused": False}) for stack in ("adam(lr=2)/adagrad[lr]", "rmsprop(momentum=0.5,lr=3)/sgd/sgd")),
    *((f"{rule}/{above}", {"every": 3, "fused": False}) for rule in WILD for above in ("hypergradient", "sgd/sgd")),
    *((f"{rule}/hypergradient", {"every": 3}) for rule in WILD),
    ("lstm/adam", {"every": 3}), ("adam(lr=2)/sgd", {"levels": {1: {"average": 8.0}}}),
]  # fmt: skip
STEPS, AFTER = 14, 2
BAD = {6: (1.0, torch.nan), 9: (1e3, 1.0), 11: (1.0, torch.nan), 12: (1.0, torch.nan)}
"""By step, factors on inputs and targets: one batch is bad, one is far off, two bad ones are the point's fault."""

Seen = tuple[list[Tensor], list[float]]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def step(net: nn.Module, optimizer: recopt.Optimizer, number: int) -> Seen:
    draw = torch.Generator().manual_seed(number)
    inputs = torch.randn(8, 3, generator=draw)
    one, other = BAD.get(number, (1.0, 1.0))
    inputs, targets = one * inputs, other * inputs.sum(1, keepdim=True)

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
