"""Which points of a long column are shown, decided as they come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Thinning:
    """Which points of a long column to show: about ``limit`` of them, decided point by point.

    The steps are cut into strides, and the first point of a column within each is kept. A stride is a
    power of two: the smallest that cuts ``total`` steps into at most ``limit``; beyond ``total`` (or,
    where that is unknown, beyond ``limit / 8``) it doubles whenever the step does. So the choice
    depends on nothing but a point's step and the one before it: a run that is resumed makes the same.
    """

    limit: int = 2000
    total: int | None = None

    def stride_start(self, steps: Ints) -> Ints:
        """The first step of the stride that each of ``steps`` (any shape) falls into."""
        base = 1
        while self.total is not None and base * self.limit < self.total:
            base *= 2
        head = base * self.limit if self.total is not None else max(1, self.limit // 8)
        doublings = np.frexp((steps // head).astype(np.float64))[1]
        return steps - steps % (base << doublings.astype(np.int64))

    def keep(self, steps: Ints, before: int | None = None) -> NDArray[np.bool_]:
        """A mask over ascending ``steps`` (n,), where ``before`` is the step that came just before them."""
        starts = self.stride_start(steps)
        first = True if before is None else self.stride_start(np.array([before], np.int64))[0] != starts[:1]
        return np.concatenate([np.broadcast_to(first, starts[:1].shape), starts[1:] != starts[:-1]])
