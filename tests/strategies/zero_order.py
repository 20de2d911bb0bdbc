"""Zero-order strategies at work on plain functions: makers, runs, test functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial
from recopt.stacks.plugins import load_strategy

Loss = Callable[[Params], Tensor]


def make(name: str, **settings: Any) -> Strategy:
    return load_strategy(name)(**settings).double()


def descend(
    strategy: Strategy, loss: Loss, point: Params, steps: int, seed: int = 0
) -> tuple[list[Params], list[State]]:
    """The points and states of a run, the start included."""
    rng, state = Generator().manual_seed(seed), strategy.init(point)
    points, states = [point], [state]
    for _ in range(steps):
        trials = [Trial(p, loss(p)) for p in strategy.propose(point, state, rng)]
        delta, state = strategy(point, trials, state, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
        points.append(point)
        states.append(state)
    return points, states


def end(name: str, loss: Loss, point: Params, steps: int, seed: int = 0, **settings: Any) -> float:
    """The loss at the last point of a run."""
    return float(loss(descend(make(name, **settings), loss, point, steps, seed)[0][-1]))


def rosenbrock(point: Params) -> Tensor:
    x = point[0]
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rastrigin(point: Params) -> Tensor:
    x = point[0]
    return (10 + x * x - 10 * torch.cos(2 * torch.pi * x)).sum()


def ellipsoid(point: Params) -> Tensor:
    x = point[0]
    return (torch.logspace(0, 6, len(x), dtype=x.dtype) * x * x).sum()


def bowl(point: Params) -> Tensor:
    return torch.stack([(p * p).sum() for p in point]).sum()


def plateau(point: Params) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def vector(*numbers: float) -> Params:
    return [torch.tensor(numbers, dtype=torch.float64)]


def several() -> Params:
    """A point of three tensors."""
    rng = Generator().manual_seed(3)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in [(), (4,), (3, 5)]]


def warped(loss: Loss) -> Loss:
    """A monotonous function of ``loss``."""
    return lambda p: -math.pi + 1e-3 * (loss(p) + 1).log()
