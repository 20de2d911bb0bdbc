"""Facts about a network that its weights tell before training: whether it is trained, deep, and normalized."""

from __future__ import annotations

import math
from itertools import takewhile

from torch import Tensor

from .matrices import spread

__all__ = ["CAP", "deep_share", "embedding_shares", "is_plain", "linear_share", "normalizes", "trained_share"]

CAP = 0.085
"""The largest root mean square of weights that a rate is taken for: that of a layer of 46 inputs as it begins."""
DEPTH, PLAIN, ENTRIES = 6, 0.1, 8
"""The matrices from which on a network counts as deep, the least further factor where nothing normalizes, and the
entries of a vector that tells of it."""
TRAINED, BOUND, BEYOND = 0.1, 1.05, 0.1
"""The factor on the rate of trained weights, the singular value over that of independent entries from which on weights
begin to count as trained, and how far beyond they do."""
LINEAR = 0.6
"""The factor on the rate, on how far weights shrink and on how far they go back, for linear models."""
SMALL, LARGE, EMBEDDED, NARROW, HEAD = 0.6, 3.0, 0.17, 32, 2.0
"""The root mean square below and above which weights are embeddings, over that of a layer of as many inputs; what it
counts as there; the narrower side of other matrices from which on their rate is smaller beside small ones; and the
factor on that of the last matrix, where it has as many rows as the first embedding."""


def trained_share(point: list[Tensor]) -> float:
    """TRAINED to the power of how far the weights are from independent entries; 1 where there is no matrix."""
    matrices = [p.flatten(1) for p in point if p.ndim >= 2 and p.numel()]
    far = sum(w.numel() * min(max(spread(w) - BOUND, 0.0) / BEYOND, 1.0) for w in matrices)
    return float(TRAINED ** (far / max(sum(w.numel() for w in matrices), 1)))


def is_plain(point: list[Tensor]) -> bool:
    """True for a network of many matrices in which no vector is a norm's scale: the errors of its layers multiply."""
    deep = sum(p.ndim >= 2 for p in point) > DEPTH
    return deep and any(p.ndim < 2 and p.numel() >= ENTRIES for p in point) and not normalizes(point)


def normalizes(point: list[Tensor]) -> bool:
    """True where a vector is the scale of a norm: its mean is more than twice its deviation."""
    vectors = [p.float() for p in point if p.ndim < 2 and p.numel() >= ENTRIES]
    return any(bool(v.mean() > 2 * v.std()) for v in vectors)


def deep_share(point: list[Tensor], plain: bool) -> float:
    """The factor on the rate of a network of many matrices; ``plain``: less where nothing normalizes."""
    share = min(1.0, DEPTH / max(sum(p.ndim >= 2 for p in point), 1))
    return share * max(share**2, PLAIN) if plain else share


def linear_share(point: list[Tensor]) -> float:
    """The factor for a linear model, a matrix with vectors beside it (its bias); 1 for others."""
    return LINEAR if sum(p.ndim >= 2 for p in point) == 1 < len(point) else 1.0


def embedding_shares(point: list[Tensor]) -> list[float]:
    """The factor on the rate of each tensor of a network with embeddings; 1 for all of any other.

    Embeddings are the matrices before the first that is as large as layers are, where most matrices are so: numbers
    that say nothing yet, so that it is not their size that tells how far they should move. Where they begin small and
    something normalizes, what layers learn meanwhile drowns them: wide ones move less. Where the last matrix has as
    many rows as the first embedding, a row for each symbol, it moves further. As far as the network is trained already,
    its numbers say something, and the factors are nearer to 1.
    """
    matrices = {i: _rows(p) for i, p in enumerate(point) if p.ndim > 1 and p.numel() and bool(p.any())}
    sizes = {i: float(w.square().mean().sqrt()) for i, w in matrices.items()}
    usual = {i: 1 / math.sqrt(3 * w.shape[1]) for i, w in matrices.items()}
    small = {i for i in matrices if sizes[i] < SMALL * min(CAP, usual[i])}
    other = small | {i for i in matrices if sizes[i] > LARGE * usual[i]}
    first = set(takewhile(other.__contains__, matrices))
    shares = [1.0] * len(point)
    if not first or 2 * len(other) >= len(matrices):
        return shares
    drowned, fresh = bool(first & small) and normalizes(point), 1 - math.log(trained_share(point), TRAINED)
    for i, w in matrices.items():
        if i in first:
            shares[i] = (EMBEDDED / min(CAP, sizes[i])) ** fresh
        elif drowned:
            shares[i] = (NARROW / max(NARROW, min(w.shape))) ** (fresh / 2)
    last = max(i for i, p in enumerate(point) if p.ndim > 1 and p.numel())
    if last not in first and len(_rows(point[last])) == len(matrices[min(first)]):
        shares[last] *= HEAD**fresh
    return shares


def _rows(tensor: Tensor) -> Tensor:
    """A row for each output, or for each place of a table of shape (1, places, width)."""
    return tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor.flatten(1)
