"""Random draws in the shape of a point, the same on every device and in every dtype.

Zero-order strategies draw from the generator they are given, on the CPU and in float64; only then are the numbers
moved to the tensor's device and dtype. So a run on a GPU or in float32 sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..contracts.strategy import Params
from .blocks import unflatten

FLOOR = 0.1
"""A tensor's spread is at least this fraction of the spread of the whole point (zero biases must move too)."""


def normal(point: Params, rng: Generator) -> Params:
    """Independent standard normal numbers, one tensor per tensor of ``point``."""
    return [_like(torch.randn(p.shape, generator=rng, dtype=torch.float64), p) for p in point]


def uniform(point: Params, rng: Generator) -> Params:
    """Independent numbers uniform in [−1, 1), one tensor per tensor of ``point``."""
    return [_like(2 * torch.rand(p.shape, generator=rng, dtype=torch.float64) - 1, p) for p in point]


def along_one(point: Params, rng: Generator) -> Params:
    """One random coordinate √N times a Cauchy number, the others 0: a step for many that matter one by one.

    So it is as long as :func:`normal`'s over all N coordinates usually is (fast annealing: Szu & Hartley 1987).
    """
    count = sum(p.numel() for p in point)
    one, other = (torch.randn((), generator=rng, dtype=torch.float64) for _ in range(2))
    line = torch.zeros(count, dtype=torch.float64)
    place = torch.randint(max(1, count), (), generator=rng)
    line[place : place + 1] = count**0.5 * one / other.abs()
    return [_like(x, p) for x, p in zip(unflatten(line, point), point, strict=True)]


def chance(like: Tensor, rng: Generator) -> Tensor:
    """One number uniform in [0, 1), 0-dimensional, with the device and dtype of ``like``."""
    return _like(torch.rand((), generator=rng, dtype=torch.float64), like)


def displaced(point: Params, length: Tensor, units: Sequence[Tensor], noise: Params) -> Params:
    """``point`` + ``length`` · unit · noise, tensor by tensor; ``units`` are those of :func:`spreads`."""
    return [p + (length * unit).to(p) * n for p, unit, n in zip(point, units, noise, strict=True)]


def spreads(point: Params) -> list[Tensor]:
    """The natural unit of a random step for each tensor of ``point``; 0-dimensional, without a graph.

    A 0-dimensional tensor counts as a coordinate (a log rate, a logit): its unit is 1, whatever its value. The unit of
    any other is its root mean square, and at least ``FLOOR`` times that of all such tensors together. Where that is 0
    too, it is 1/√(numbers per output), or 1 for a vector.
    """
    sizes = [p.detach() for p in point]
    wide = [p for p in sizes if p.ndim and p.numel()]
    count = sum(p.numel() for p in wide)
    floor = FLOOR * (torch.stack([(p * p).sum() for p in wide]).sum() / count).sqrt() if wide else None
    return [_spread(p, floor) for p in sizes]


def _spread(p: Tensor, floor: Tensor | None) -> Tensor:
    one = p.new_ones(())
    if floor is None or not p.ndim or not p.numel():
        return one
    found = torch.maximum((p * p).mean().sqrt(), floor.to(p))
    fan_in = p.numel() // p.shape[0] if p.ndim > 1 else 1
    return torch.where(found > 0, found, one / fan_in**0.5)


def _like(drawn: Tensor, p: Tensor) -> Tensor:
    return drawn.to(device=p.device, dtype=p.dtype)
