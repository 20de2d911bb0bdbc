"""The choice of a window's length by what windows of half, the same and twice the length say.

A step of a level costs its window, so a step along a window of 2T is held against two along windows of T, one after the
other. How far each leads is told by the directions of long windows from *other* examinations: what two windows from one
state have in common by the chance of their batches speaks for none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST, MOST = 4, 8
"""Examinations before a length is changed, and the last ones that count."""
_SURE = 3.0
"""Standard errors by which a mean has to be above 0, which is asked again at each examination."""
FIRST, _LATER = 20, 0.5
"""Steps of a level between its first examinations; later ones follow after this share of those made so far."""


def pause(made: int) -> int:
    """The steps to the next examination of a level that has made ``made`` since its length was last chosen."""
    return max(FIRST, int(_LATER * made))


@dataclass(frozen=True)
class Worth:
    """Two windows of one length, one after the other, beside one that is twice as long.

    Where long windows of different examinations do not agree, they say nothing, and neither is shown to lead farther.

    Attributes:
        across: the mean cosine of a short window and a long one, of different examinations.
        along: the mean cosine of two long ones.
        margin: the mean of 2 · ``across`` − ``along``, which is above 0 where two short windows lead farther.
        error: its standard error.
    """

    across: float
    along: float
    margin: float
    error: float

    @property
    def short(self) -> bool:
        """True if two short windows surely lead farther than a long one."""
        return self.along > 0 and self.margin > _SURE * self.error

    @property
    def long(self) -> bool:
        """True if a long window surely leads farther than two short ones."""
        return self.along > 0 and -self.margin > _SURE * self.error

    def __str__(self) -> str:
        return f"mean cosines {self.across:.2f}, {self.along:.2f}"


def pointing(signals: Sequence[Tensor]) -> Tensor:
    """The directions of hypergradients (k of shape (n,)), of length 1, shape (k, n)."""
    return torch.nn.functional.normalize(torch.stack(list(signals)), dim=1)


def worth(short: Tensor, long: Tensor) -> Worth:
    """The worth of windows by their directions at N examinations: of two short ones (N, 2, n), a long one (N, 1, n)."""
    both, one = short.sum(1), long[:, 0]
    others = (one.sum(0) - one) / (len(one) - 1)
    across, along = (both * others).sum(1), (one * others).sum(1)
    margins = across - along
    error = float(margins.std()) * math.sqrt(2 / len(margins))  # each pair of examinations is in two margins
    return Worth(float(across.mean()) / 2, float(along.mean()), float(margins.mean()), error)
