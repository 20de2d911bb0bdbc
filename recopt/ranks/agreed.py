"""Stops and saves that several processes do at the same step, though each may be asked at another time."""

from __future__ import annotations

import time

from .shared import Ranks

SECONDS, MOST = 0.1, 1000
"""The time between two agreements, and the most steps, where steps are short."""


class Agreed:
    """An agreement on when to stop, and when to save.

    Attributes:
        stop, save: whether that is to be done now.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.stop, self.save = ranks, False, False
        self._left, self._every, self._since = 1, 1, time.monotonic()

    def __call__(self, stop: bool, save: bool) -> None:
        """After a step: this process is asked to ``stop``; a checkpoint is due."""
        if not self.ranks:
            self.stop, self.save = stop, save
            return
        self.save, self._left = False, self._left - 1
        if self._left:
            return
        now, first = time.monotonic(), self.ranks.rank == 0
        told = [stop, first and save, first and (now - self._since) / self._every]
        asked, due, each = self.ranks.totals(told)
        self.stop, self.save, self._since = asked > 0, due > 0, now
        self._left = self._every = max(1, min(int(SECONDS / max(each, 1e-9)), MOST))
