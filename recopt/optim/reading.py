"""What a step reads of a tower's tensors: all numbers at once, since each read from a device is a wait for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import Sums
from .shards import Shards


class Reading(NamedTuple):
    """The norm of all gradients together, and per level of the model its cohorts' sums."""

    norm: float
    sums: list[list[dict[str, float]]]


def read(grads: Sequence[Tensor], measured: Sequence[Sequence[Sums]], shards: Shards) -> Reading:
    """``grads`` and sums as numbers, with one read, added up over the processes that hold parts of them."""
    parts: list[Tensor] = list(torch._foreach_norm(list(grads)))
    for level in measured:
        for sums in level:
            for terms in sums.values():
                parts += terms
    values, count = _numbers(parts), len(grads)
    if shards:
        squares = [n * n for n in values[:count]]
        values = shards.totals([*squares, *values[count:]], grads[0].device)
        values[:count] = [math.sqrt(n) for n in values[:count]]
    norm = math.sqrt(sum(n * n for n in values[:count]))
    rest = iter(values[count:])
    return Reading(
        norm,
        [
            [{key: sum(next(rest) for _ in terms) for key, terms in sums.items()} for sums in level]
            for level in measured
        ],
    )


def _numbers(parts: Sequence[Tensor]) -> list[float]:
    """0-dimensional tensors as numbers; one read where they are on one device."""
    first = parts[0]
    if all(p.dtype == first.dtype and p.device == first.device for p in parts):
        return torch.stack(list(parts)).tolist()
    return [float(p) for p in parts]
