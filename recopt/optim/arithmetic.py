"""In-place arithmetic over lists of tensors that kernels and movers share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 22
"""Elements worked on at once: bounds what temporaries cost to 16 MiB each, whatever the model's size."""

LEAST_ROOT = 1e-154
"""What formulas take for the root of a mean of squares that is 0; so is the gradient that they divide by it."""


def chunks(*columns: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """The same stretches of each column, cut so that one holds at most CHUNK elements (or one tensor)."""
    first = columns[0]
    start = filled = 0
    for i, tensor in enumerate(first):
        count = tensor.numel()
        if filled and filled + count > CHUNK:
            yield tuple(list(c[start:i]) for c in columns)
            start, filled = i, 0
        filled += count
    if first:
        yield tuple(list(c[start:]) for c in columns)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩, 0-dimensional. One pass where both are contiguous."""
    if a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous() and a.numel() < 2**31:
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()


def dots(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """⟨a, b⟩ tensor by tensor."""
    return [dot(x, y) for x, y in zip(a, b, strict=True)]


def roots(square: Any) -> list[Tensor]:
    """√v of each tensor, new tensors; at least √tiny, as the strategies have it."""
    out = torch._foreach_sqrt(square)
    # Not before the root: this way the clamp can be in place on the new tensor.
    torch._foreach_clamp_min_(out, torch.finfo(out[0].dtype).tiny ** 0.5)
    return list(out)
