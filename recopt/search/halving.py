"""Asynchronous successive halving (Li et al. 2020, 1810.05934, Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rungs(steps: int, first: int, eta: int) -> list[int]:
    """The steps to which trials are run before they are compared: first · ηᵏ, k = 0 … ⌊log_η(steps / first)⌋.

    The last is ``steps`` itself.
    """
    found = [first]
    while found[-1] * eta <= steps:
        found.append(found[-1] * eta)
    return [*found[:-1], steps]


class Halving:
    """Decides which trial goes on, and to which rung.

    A trial is promoted from rung k when it is among the best ⌊n / η⌋ of the n that rung has seen, and was not
    promoted from there before. Of the rungs that have such a trial the highest comes first, and of its trials the
    best; where there is none, a new trial begins.

    Args:
        count: number of trials; ``levels``: number of rungs.
    """

    def __init__(self, count: int, levels: int, eta: int) -> None:
        self.count, self.levels, self.eta = count, levels, eta
        self._begun = 0
        self._losses: list[dict[int, float]] = [{} for _ in range(levels)]
        self._promoted: list[set[int]] = [set() for _ in range(levels)]

    def next(self) -> tuple[int, int] | None:
        """The next trial (from 0) and the rung that it is to reach; None if there is nothing to do now."""
        for rung in reversed(range(self.levels - 1)):
            for trial in self._best(rung):
                if trial not in self._promoted[rung]:
                    self._promoted[rung].add(trial)
                    return trial, rung + 1
        if self._begun == self.count:
            return None
        self._begun += 1
        return self._begun - 1, 0

    def report(self, trial: int, rung: int, loss: float) -> None:
        """Take the loss of ``trial`` at ``rung``; one that is not finite never goes on."""
        self._losses[rung][trial] = loss

    def _best(self, rung: int) -> Sequence[int]:
        found = self._losses[rung]
        order = sorted((trial for trial in found if math.isfinite(found[trial])), key=lambda n: (found[n], n))
        return order[: len(found) // self.eta]
