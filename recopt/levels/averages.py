"""Polynomial-decay means of the points that a level went through.

Shamir & Zhang 2013 (1212.1824): with m_t the mean after the t-th update, which led to θ_t,

    m_t = (1 − c_t) m_{t−1} + c_t θ_t,    c_t = (η + 1) / (t + η)

so θ_s weighs about (s/t)^η: the later the more, over a stretch that grows with the run, and no horizon is to be
chosen. With η = 0 it is the plain mean. Ivgi et al. 2023 (2302.12022) take η = 8, as ``average: true`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts.strategy import Params
from .parts import Part

USUAL = 8.0
"""η where nobody says."""


def share(decay: float, count: int) -> float:
    """c_t for ``count`` = t ≥ 0; the point before the first update (0) counts for nothing after it."""
    return (decay + 1) / (count + decay) if count > 1 else 1.0


def folded(mean: Sequence[Tensor], point: Sequence[Tensor], decay: float, count: int) -> list[Tensor]:
    """The mean with the point after update ``count`` in it; new tensors, and ``point`` itself if it is the first."""
    weight = share(decay, count)
    if weight == 1.0 or not mean:
        return list(point)
    return list(torch._foreach_lerp(list(mean), list(point), weight))


def fold(part: Part, point: Params, decay: float, in_place: bool) -> None:
    """Take ``point``, without a graph, into the mean that ``part`` keeps."""
    weight = share(decay, part.folds + 1)
    if weight == 1.0:
        part.mean = [p.clone() for p in point]
    elif in_place:
        torch._foreach_lerp_(part.mean, point, weight)
    else:
        part.mean = folded(part.mean, point, decay, part.folds + 1)
    part.folds += 1
