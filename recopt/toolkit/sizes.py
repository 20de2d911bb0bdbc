"""The size of steps, from the weights and the first gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .columns import at_most
from .weights import CAP, DEPTH

__all__ = ["measured", "streams"]

Column = Any

ALIGNED, ENTRIES, NEAR = 0.8, 16, 8
"""The cosine of gradients from which on two vectors count as added to one stream, the fewest entries that they have,
and the most vectors after it, of the same length, that each is compared with."""
FEW, MANY = 0.2, 0.4
"""The shares of such vectors: up to the first none counts, from the second on all do."""


def measured(ops: Any, point: Column, state: Any, share: float) -> dict[str, Column]:
    """``"size"`` and ``"bulk"`` at the first step.

    With rms the root mean square of a tensor's weights, CAP where all are zero, they are share · min(rms, CAP) and
    min(1, CAP / rms), times what they were.
    """
    square = ops.inner(point, point)
    some = ops.sign(square)
    rms = ops.add(ops.mul(some, ops.roots(ops.div(square, ops.count(point)))), ops.mul(ops.add(some, -1.0), -CAP))
    size = ops.mul(ops.mul(at_most(ops, rms, CAP), share), state["size"])
    return {"size": size, "bulk": ops.div(state["bulk"], ops.at_least(ops.mul(rms, 1 / CAP), 1.0))}


def streams(ops: Any, grads: Column) -> Column:
    """The extent to which vectors of a network of many matrices are added to common streams, from 0 to 1.

    Whatever is added to a stream has the gradient of that stream. So the biases of residual blocks have nearly the same
    gradient, and both biases of a recurrent layer have exactly the same. Gradients of layers in a row are unrelated.

    Returns:
        one number, in place of each tensor; 0 for other networks.
    """
    many = isinstance(grads, list) and sum(g.ndim > 1 for g in grads) > DEPTH  # the same in all processes
    vectors = [g.detach() for g in grads if g.ndim == 1] if many else []
    lengths = _lengths(ops, vectors)
    wide = {i: row for row, i in enumerate(i for i, length in enumerate(lengths) if length >= ENTRIES)}
    pairs = [pair for i in wide for pair in _followed(i, vectors, lengths)]
    if not pairs:
        return ops.mul(ops.count(grads), 0.0)
    dots = ops.inner([vectors[i] for i, _ in pairs], [vectors[j] for _, j in pairs])
    roots = ops.roots(ops.inner(vectors, vectors))
    alike = torch.stack(
        [(dot > ALIGNED * roots[i] * roots[j]).to(vectors[0]) for dot, (i, j) in zip(dots, pairs, strict=True)]
    )
    counts = alike.new_zeros(len(wide))
    for side in zip(*pairs, strict=True):
        counts = counts.index_add(0, torch.tensor([wide[i] for i in side], device=alike.device), alike)
    share = counts.clamp_max(1).sum() / len(wide)
    return [((share - FEW) / (MANY - FEW)).clamp(0, 1).to(g) for g in grads]


def _lengths(ops: Any, vectors: list[Tensor]) -> list[int]:
    """The number of entries of each vector, in all processes that hold a part of it."""
    if getattr(ops, "shards", None):
        return [int(n) for n in ops.count(vectors)]
    return [v.numel() for v in vectors]


def _followed(place: int, vectors: list[Tensor], lengths: list[int]) -> list[tuple[int, int]]:
    """The place with those of the next few vectors of as many entries, on the same device."""
    like = vectors[place].dtype, vectors[place].device, lengths[place]
    after = range(place + 1, len(vectors))
    return [(place, j) for j in after if (vectors[j].dtype, vectors[j].device, lengths[j]) == like][:NEAR]
