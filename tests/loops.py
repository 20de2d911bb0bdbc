"""Small models and training loops for the tests of recopt.Optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

X = torch.randn(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(2))
TARGET = torch.tensor([1.0, -0.5, 0.3, 2.0, -1.2])


def model_of(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batches(seed: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(0, 64, (16,), generator=draw)
        yield X[rows], Y[rows]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, data: Any = None, scale: float = 1.0
) -> list[float]:
    losses = []
    for x, y in itertools.islice(data or batches(), steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y) * scale
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def far(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, count: int, dtype: torch.dtype = torch.float32
) -> list[float]:
    draw = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(count):
        x = torch.randn(16, 6, generator=draw).to(dtype)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def distance(w: Tensor) -> Tensor:
    return ((w - TARGET) ** 2).sum()
