"""The size of steps, from the weights and the gradients at the first step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .columns import at_most
from .weights import CAP, DEPTH, ENTRIES

__all__ = ["measured", "streams"]

Column = Any

ALIGNED, NEAR = 0.8, 8
"""The cosine of gradients from which on two vectors count as added to one stream, and how many that follow one and have
as many entries it is compared with."""
FEW, MANY = 0.2, 0.4
"""The shares of such vectors: up to the first none counts, from the second on all do."""


def measured(ops: Any, grads: Column, point: Column, state: Any, share: float) -> dict[str, Column]:
    """``"size"`` and ``"bulk"`` after the first gradient.

    With rms the root mean square of a tensor's weights, CAP where all are zero, they are share · min(rms, CAP) and
    min(1, CAP / rms), times what they were. Where vectors are added to one stream, the former is also multiplied by
    ``state["branched"]``.
    """
    square = ops.inner(point, point)
    some = ops.sign(square)
    rms = ops.add(ops.mul(some, ops.roots(ops.div(square, ops.count(point)))), ops.mul(ops.add(some, -1.0), -CAP))
    factor = 1 + (state["branched"] - 1) * streams(ops, grads)
    size = ops.mul(ops.mul(at_most(ops, rms, CAP), share * factor), state["size"])
    return {"size": size, "bulk": ops.div(state["bulk"], ops.at_least(ops.mul(rms, 1 / CAP), 1.0))}


def streams(ops: Any, grads: Column) -> float:
    """How far the vectors of a network of many matrices are added to common streams, from 0 to 1; 0 for other networks.

    What is added to one stream has one gradient, that of the stream: so have the biases of residual blocks, but for
    what the blocks between them change, and of the two sides of a recurrent layer. The gradients of layers in a row
    have nothing to do with each other.
    """
    if not isinstance(grads, list) or sum(g.ndim > 1 for g in grads) <= DEPTH:
        return 0.0
    vectors = [g.detach() for g in grads if g.ndim == 1]
    sizes = [int(n) for n in ops.count(vectors)]
    places = [i for i, size in enumerate(sizes) if size >= ENTRIES]
    pairs = [pair for i in places for pair in _followed(i, vectors, sizes)]
    if not pairs:
        return 0.0
    products = ops.inner([vectors[i] for i, _ in pairs], [vectors[j] for _, j in pairs])
    lengths = [float(square) ** 0.5 for square in ops.inner(vectors, vectors)]
    found = zip(pairs, products, strict=True)
    alike = {place for (i, j), dot in found for place in (i, j) if float(dot) > ALIGNED * lengths[i] * lengths[j]}
    return min(1.0, max(0.0, (len(alike) / len(places) - FEW) / (MANY - FEW)))


def _followed(place: int, vectors: list[Tensor], sizes: list[int]) -> list[tuple[int, int]]:
    """The place with those of the next few vectors of as many entries, on the same device."""
    like = vectors[place].dtype, vectors[place].device, sizes[place]
    after = range(place + 1, len(vectors))
    return [(place, j) for j in after if (vectors[j].dtype, vectors[j].device, sizes[j]) == like][:NEAR]
