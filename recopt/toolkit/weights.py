"""Facts about a network that its weights tell before training: whether it is trained, deep, and normalized."""

from __future__ import annotations

from torch import Tensor

from .matrices import spread

__all__ = ["deep_share", "is_plain", "normalizes", "trained_share"]

DEPTH, PLAIN, ENTRIES = 6, 0.1, 8
"""The matrices from which on a network counts as deep, the least further factor where nothing normalizes, and the
entries of a vector that tells of it."""
TRAINED, BOUND, BEYOND = 0.1, 1.05, 0.1
"""The factor on the rate of trained weights, the singular value over that of independent entries from which on weights
begin to count as trained, and how far beyond they do."""


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
