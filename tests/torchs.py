"""What PyTorch asks of its own optimizers, for tests that ask it of eleven stacks: a problem, and torch's cases."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import recopt

STACKS = ["sgd", "sgd(momentum=0.9)", "adam", "adam(weight_decay=0.1)", "rmsprop", "adagrad", None, "adam/sgd/sgd",
          "sgd/adam[*]", "schedule-free", "prodigy"]  # fmt: skip
every_stack = pytest.mark.parametrize("stack", STACKS)
UNREAD = pytest.mark.filterwarnings("ignore:.*default does not read")
"""For tests that give a rate to every stack."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(strided: bool = False) -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """A weight and a bias, and a loss of them that is differentiated when it is called."""
    weight, bias = drawn(10, 5, 2)[..., 0], drawn(10, 2, seed=1)[..., 0]
    params = [nn.Parameter(t if strided else t.contiguous()) for t in (weight, bias)]
    x = drawn(5, seed=2)

    def loss() -> Tensor:
        for p in params:
            p.grad = None
        found = (params[0].mv(x) + params[1]).square().sum()
        found.backward()
        return found

    return params, loss


def run(optimizer: recopt.Optimizer, loss: Callable[[], Tensor], steps: int) -> list[Tensor]:
    for _ in range(steps):
        optimizer.step(loss)
    return [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@functools.cache
def shipped() -> Any:
    """The module with torch's cases, which takes seconds to import and would lock the flags of its back ends."""
    with mock.patch.object(torch.backends, "disable_global_flags"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it misses hypothesis, which no case needs
        from torch.testing._internal import common_optimizers
    return common_optimizers
