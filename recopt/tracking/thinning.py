"""Thinning of long columns, point by point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Thinning:
    """A choice of about ``limit`` points of a long column, made point by point.

    The steps are divided into strides, and the first point of a column within each is kept. A stride is a
    power of two: the smallest that divides ``total`` steps into at most ``limit``. Beyond ``total`` (or,
    where that is unknown, beyond ``limit / 8``) it doubles whenever the step does. The choice depends only
    on a point's step and the one before it, so a resumed run makes the same choice.
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
        """The mask of the points to keep at ascending ``steps`` (n,); ``before`` is the step just before them."""
        starts = self.stride_start(steps)
        first = True if before is None else self.stride_start(np.array([before], np.int64))[0] != starts[:1]
        return np.concatenate([np.broadcast_to(first, starts[:1].shape), starts[1:] != starts[:-1]])
