"""A noisy curve of a run: where it begins and ends, whether it falls, and where it goes wrong."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..tracking.thinning import Floats, Ints

FEW = 50
"""Fewer values than these say nothing of whether there is progress."""
LITTLE = 0.02
"""A fall by less than this part is none."""
EXPLODED = 10.0
"""A loss above this multiple of its first is one that diverged."""
_CLEAR = 3.0
"""Standard errors from which a difference is one."""
_BLOCKS = 50
_WELL = 0.1
"""A fall by this part is one that was lost again if it is gone at the end."""


class Curve:
    """One column of a trace.

    Args:
        steps, values: shape (n,).
        settles: values at the beginning that stand for where it begins: more than one where each is of another task.

    Attributes:
        start, end: where it begins, and the median of its last tenth.
    """

    def __init__(self, steps: Ints, values: Floats, settles: int = 1) -> None:
        self.steps, self.values = steps, values
        with np.errstate(invalid="ignore", over="ignore"):
            self.start = float(np.median(values[: max(1, settles)])) if len(values) else math.nan
            self.end = float(np.median(values[-max(3, len(values) // 10) :])) if len(values) else math.nan

    @property
    def lost(self) -> int | None:
        """The step from which no value is finite any more; None if the last one is."""
        good = np.flatnonzero(np.isfinite(self.values))
        if not len(self.values) or (len(good) and good[-1] == len(self.values) - 1):
            return None
        return int(self.steps[good[-1] + 1 if len(good) else 0])

    @property
    def exploded(self) -> bool:
        """True if it ends above a multiple of its start."""
        last = self.values[-1] if len(self.values) else math.nan
        return bool(last > EXPLODED * max(abs(self.start), 1e-12))

    @property
    def fell(self) -> bool:
        """True if it ended below its start, or still falls; and where it is too short to tell."""
        if len(self.values) < FEW or not math.isfinite(self.start):
            return True
        return self.end < self.start - LITTLE * abs(self.start) or self.falls()

    def falls(self, since: float = 1 / 3) -> bool:
        """True if the last third is clearly below the third that begins at the part ``since`` of the curve."""
        count = len(self.values) // 3
        first = int(since * len(self.values))
        before, after = self.values[first : first + count], self.values[-count:]
        if count < 2 or not (np.isfinite(before).all() and np.isfinite(after).all()):
            return False
        error = math.sqrt((before.var() + after.var()) / count)
        return float(before.mean() - after.mean()) > max(_CLEAR * error, LITTLE / 2 * abs(self.start))

    def above(self, level: float) -> int:
        """The step from which it stays above ``level`` until its end, single values aside."""
        edges = np.linspace(0, len(self.values), min(_BLOCKS, len(self.values)) + 1).astype(int)
        low = [n for n, (a, b) in enumerate(pairwise(edges)) if np.median(self.values[a:b]) <= level]
        first = int(edges[low[-1] + 1]) if low else 0
        if first < len(self.values):
            first += int((self.values[first : first + edges[1]] > level).argmax())
        return int(self.steps[min(first, len(self.values) - 1)])

    @property
    def turned(self) -> int | None:
        """The step from which it rose again until the end, if it had been well below its start; else None."""
        tenth = max(1, len(self.values) // _BLOCKS)
        lowest = min(float(np.median(part)) for part in np.array_split(self.values, max(1, len(self.values) // tenth)))
        well = self.start - _WELL * abs(self.start)
        return self.above((lowest + self.start) / 2) if lowest < well else None
