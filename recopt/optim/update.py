"""The last update of a model: to be measured, taken back, or made again shorter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..contracts.strategy import Params
from .columns import KernelCohort, TapedCohort
from .shards import Shards

FLOOR = 0.01
"""What counts as the root mean square of a model's tensors where it is smaller (they may start at zero)."""


class Update:
    """The last update that one level made of a model, as far as it is on record.

    Args:
        cohorts: all that the level moves.
        points: the tower's tensors, as the update left them.
        shards: how they are split over processes.
    """

    def __init__(self, cohorts: Sequence[KernelCohort | TapedCohort], points: Params, shards: Shards) -> None:
        self.shards = shards
        self.points = [p for cohort in cohorts for p in cohort.of(points)]
        made = [(c, c.of(points), c.last(points)) for c in cohorts if c.mover.recorded]
        self.parts = [(cohort, mine, last) for cohort, mine, last in made if last is not None]

    @property
    def known(self) -> bool:
        """Whether there is a record of it."""
        return bool(self.parts)

    def length(self) -> float:
        """Its norm."""
        return self.shards.norm([u for _, _, last in self.parts for u in last])

    def size(self) -> float:
        """The norm of all that the level moves, or of tensors of a root mean square of FLOOR if they are smaller."""
        (count,) = self.shards.totals([sum(p.numel() for p in self.points)], self.points[0].device)
        return max(self.shards.norm(self.points), FLOOR * math.sqrt(max(count, 1)))

    def take_back(self) -> None:
        """Put the tensors where they were before it."""
        for _, mine, last in self.parts:
            torch._foreach_sub_(mine, last)

    def make_again(self, keep: float) -> None:
        """Once it was taken back: make ``keep`` of it."""
        for cohort, mine, last in self.parts:
            torch._foreach_add_(mine, last, alpha=keep)
            cohort.shorten(keep)
