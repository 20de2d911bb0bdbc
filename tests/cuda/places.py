"""The GPU that these tests are for, and a training loop on it and beside it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from .. import rough

GPU = "cuda"
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
NEAR: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"rtol": 2e-3, "atol": 1e-5}, torch.float64: {"rtol": 1e-9, "atol": 1e-12},
}  # fmt: skip
"""How far the same run may be on another processor after some steps: sums are rounded in another order."""


class Loop:
    """A small network and its optimizer; each step is on a batch of its own, some of which may be ``wild``."""

    def __init__(self, stack: str | None, device: str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).to(device, dtype)
        self.optimizer, self.like = (
            recopt.Optimizer(self.net.parameters(), stack, **options),
            torch.empty(0, dtype=dtype),
        )
        self.like = self.like.to(device)

    def step(self, number: int, wild: bool = False) -> None:
        x = rough.batch(number)[0] if wild else torch.linspace(-2, 2, 48).add(number).sin().reshape(16, 3)
        x, y = x.to(self.like), (rough.batch(number)[1] if wild else x.sum(1, keepdim=True).sin()).to(self.like)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = ((self.net(x) - y) ** 2).mean()
            loss.backward()
            return loss.detach()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self.optimizer.step(closure)

    def params(self) -> list[Tensor]:
        """The parameters, on the CPU."""
        return [p.detach().cpu().clone() for p in self.net.parameters()]

    def load(self, weights: Mapping[str, Any], state: Any) -> None:
        self.net.load_state_dict(weights)
        self.optimizer.load_state_dict(state)


def alike(here: list[Tensor], there: list[Tensor], dtype: torch.dtype) -> None:
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, **NEAR[dtype])


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """True if they are equal to the bit, NaNs included."""
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(one, other, strict=True))
