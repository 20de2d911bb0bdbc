"""The numbers that a step reads of the task: all at once, since each read from a device is a wait for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ..contracts import trees
from .columns import Sums
from .shards import Shards


class Reading(NamedTuple):
    """Losses (None: not told) and norms of all gradients together, per task; by level, the sums of each part."""

    losses: list[float] | None
    norms: list[float]
    sums: dict[int, list[dict[str, float]]]


def read(
    grads: Sequence[Tensor], loss: Tensor | None, measured: Mapping[int, Sequence[Sums]], shards: Shards, tasks: int
) -> Reading:
    """An evaluation as numbers, with one read, added up over the processes that hold parts of the tensors."""
    if tasks:
        norms = trees.norm(grads, batched=True) if grads else None
        losses = None if loss is None else loss.detach().tolist()
        return Reading(losses, [0.0] * tasks if norms is None else norms.tolist(), {})
    plain = [g.detach() if g.requires_grad else g for g in grads]
    parts: list[Tensor] = list(torch._foreach_norm(plain)) if plain else []
    for level in measured.values():
        for sums in level:
            for terms in sums.values():
                parts += terms
    count = len(grads)
    values = _numbers(parts if loss is None else [*parts, loss])
    losses = None if loss is None else [values.pop()]
    if shards and parts:
        squares = [n * n for n in values[:count]]
        values = shards.totals([*squares, *values[count:]], parts[0].device)
        values[:count] = [math.nan if math.isnan(n) else math.sqrt(n) for n in values[:count]]
    rest = iter(values[count:])
    found = {
        number: [{key: sum(islice(rest, len(terms))) for key, terms in sums.items()} for sums in level]
        for number, level in measured.items()
    }
    return Reading(losses, [_norm(values[:count])], found)


def shortened(grads: Sequence[Tensor | None]) -> list[Tensor | None] | None:
    """Gradients whose squares overflow, all shortened alike until they do not; None if they are not finite."""
    there = [g.detach() for g in grads if g is not None and g.numel()]
    largest = max((float(g.abs().max()) for g in there), default=math.inf)
    if not math.isfinite(largest):
        return None
    room = min(torch.finfo(g.dtype).max for g in there) ** 0.5 / 8
    keep = room / sum(g.numel() for g in there) ** 0.5 / largest
    return [None if g is None else g * keep for g in grads]


def _norm(values: Sequence[float]) -> float:
    return math.hypot(*values)


def _numbers(parts: list[Tensor]) -> list[float]:
    """Tensors of one element as numbers; one read where they are on one device that has to be waited for."""
    if not parts or parts[0].is_cpu:
        return [p.item() for p in parts]
    try:
        return list(torch.stack([p.detach().reshape(()) for p in parts]).tolist())
    except RuntimeError:
        return [float(p) for p in parts]
