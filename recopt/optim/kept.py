"""The best point of a run by what is told of held-out data: its copy, and how it is chosen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..checking.errors import StateError
from .driver import Driver, level_of_the_caller
from .points import numbers_of

MEMORY = 10
"""The last loss counts for a tenth of the running mean, from the tenth one on; before that all count alike."""


class Kept:
    """A copy of the parameters where the running mean of the losses that were told was lowest.

    Attributes:
        points: the numbers of each parameter there; nothing before the first loss.
        stale: losses told since.
    """

    def __init__(self) -> None:
        self.points: dict[Tensor, Tensor] = {}
        self.stale, self._count, self._mean, self._lowest = 0, 0, 0.0, math.inf
        self._warned = False

    def tell(self, loss: float, params: Iterable[Tensor]) -> None:
        """One more loss, measured where ``params`` are. What is not finite is no improvement, and enters no mean."""
        self.stale += 1
        if not math.isfinite(loss):
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"opt.keep_best() was told {loss}, which counts as no improvement. Further ones are counted in "
                    "opt.stale without a warning.",
                    RuntimeWarning,
                    stacklevel=level_of_the_caller(),
                )
            return
        self._count += 1
        self._mean += (loss - self._mean) / min(self._count, MEMORY)
        if self._mean < self._lowest:
            self._lowest, self.stale = self._mean, 0
            self.add(params)

    def add(self, params: Iterable[Tensor]) -> None:
        """Copy ``params``, in place where they were copied before."""
        for p in params:
            if p in self.points:
                self.points[p].copy_(numbers_of(p))
            else:
                self.points[p] = numbers_of(p).clone()

    def check(self) -> None:
        """Raise StateError if no loss was told."""
        if not self.points:
            raise StateError(
                "No best point is kept here: tell the loss on held-out data to opt.keep_best(loss) while it trains."
            )

    def numbers(self) -> dict[str, Any]:
        """Everything but the copy, for a state."""
        return {"stale": self.stale, "count": self._count, "mean": self._mean, "lowest": self._lowest}

    @classmethod
    def of(cls, numbers: Mapping[str, Any], points: dict[Tensor, Tensor]) -> Kept:
        """A record that goes on from a state."""
        made = cls()
        made.points, made.stale, made._count = points, numbers["stale"], numbers["count"]
        made._mean, made._lowest = numbers["mean"], numbers["lowest"]
        return made


def agreed(loss: Tensor, towers: Iterable[Driver]) -> float:
    """The number in ``loss``; where parameters are split over processes, the mean of theirs, so that all keep alike."""
    split = next((tower for tower in towers if tower.shards), None)
    if split is None:
        return loss.item()
    total, count = split.shards.totals([loss.item(), 1.0], split.tower.setting.device)
    return total / count
