"""Inputs of the conformance battery (points, trials, trajectories), and comparisons of trees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..contracts import trees
from ..contracts.strategy import Params, State, Strategy, Trial

Shape = tuple[int, ...]
PLAIN: tuple[Shape, ...] = ((3,), (2, 4))
Make = Callable[[], Strategy]
STEPS = 3
"""The steps of most checks."""


class Broken(Exception):
    """A property that does not hold; the text says what to correct."""


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed torch's global generator inside, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def generator(seed: int = 0) -> Generator:
    """The generator for a strategy: always on the CPU."""
    return Generator().manual_seed(seed)


def some(shapes: Sequence[Shape], seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Params:
    """Normal numbers in ``shapes``."""
    rng = generator(seed)
    return [torch.randn(s, generator=rng, dtype=torch.float64).to(device, dtype) for s in shapes]


def scored(order: int, point: Params, step: int, factor: float = 1.0) -> Trial:
    """``point`` as a trial of step ``step``: its loss ½‖p‖² + n·p and, for ``order`` 1, its gradients.

    Both are differentiable by the point. The noise n changes with the step, and needs no generator (a random draw means
    something else where tasks are mapped).
    """
    noise = [_ripple(p, step + 0.3 * k) for k, p in enumerate(point)]
    parts = [(p * p / 2 + n * p).sum() for p, n in zip(point, noise, strict=True)]
    grads = [factor * (p + n) for p, n in zip(point, noise, strict=True)]
    return Trial(point, factor * torch.stack(parts).sum(), grads if order == 1 else None)


def _ripple(like: Tensor, phase: float) -> Tensor:
    count = torch.arange(like.numel(), dtype=torch.float64, device="cpu")
    return torch.sin(2.3 * count + 1.7 * phase + 0.4).reshape(like.shape).to(like)


def ask(strategy: Strategy, point: Params, state: State, rng: Generator, step: int) -> Any:
    """One step: propose, score, and the strategy's answer."""
    trials = [scored(strategy.order, p, step) for p in strategy.propose(point, state, rng)]
    return strategy(point, trials, state, rng)


def walk(strategy: Strategy, point: Params, steps: int) -> tuple[Params, list[State]]:
    """The point after ``steps`` steps, and the states from the first to the last; the global generator is seeded."""
    rng, states = generator(), []
    with seeded():
        states.append(strategy.init([p.detach() for p in point]))
        for step in range(steps):
            delta, state = ask(strategy, point, states[-1], rng, step)
            point = [p + d for p, d in zip(point, delta, strict=True)]
            states.append(state)
    return point, states


def finite(items: Sequence[Tensor]) -> bool:
    """True if every number is finite."""
    return all(bool(t.isfinite().all()) for t in items)


def same(one: Any, other: Any) -> bool:
    """True if two trees are equal in structure, types and every bit but the sign of NaN."""
    if isinstance(one, Tensor):
        alike = isinstance(other, Tensor) and (one.shape, one.dtype) == (other.shape, other.dtype)
        return alike and bool(torch.equal(torch.nan_to_num(one.detach()), torch.nan_to_num(other.detach())))
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other)))


def close(one: Any, other: Any, tolerance: float = 1e-9) -> bool:
    """True if two trees of one structure agree to ``tolerance``, relative to the largest number of a tensor."""
    a, b = trees.tensors(one), trees.tensors(other)
    if len(a) != len(b) or any((x.shape, x.dtype) != (y.shape, y.dtype) for x, y in zip(a, b, strict=True)):
        return False
    return all(
        x.numel() == 0 or float((x - y).detach().abs().max()) <= tolerance * (1e-3 + float(x.detach().abs().max()))
        for x, y in zip(a, b, strict=True)
    )


def layout(value: Any) -> Any:
    """The structure of a state without its numbers: keys, lengths, shapes and dtypes."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), str(value.dtype), str(value.device))
    if isinstance(value, dict):
        return {key: layout(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [layout(item) for item in value]
    return type(value).__name__


def contents(module: nn.Module) -> dict[str, Any]:
    """The attributes of ``module`` and its submodules, with copies of tensors and containers."""
    held: dict[str, Any] = {}
    for place, part in module.named_modules():
        for name, value in vars(part).items():
            if name != "_modules":
                held[f"{place}.{name}".removeprefix(".")] = _copied(value)
    return held


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else id(value)
