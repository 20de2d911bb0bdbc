"""The vocabulary of rules on rows: each row of a matrix is one run's, with hyperparameters of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .ops import TensorOps


def _fitting(operation: Callable[..., Any]) -> Any:
    """An operation whose scalars are columns of the matrices' dtype."""

    def call(self: RowOps, *given: Any, **named: Any) -> Any:
        dtype = next(x for x in (*given, *named.values()) if isinstance(x, list))[0].dtype
        fit = [x.to(dtype) if isinstance(x, Tensor) else x for x in given]
        return operation(self, *fit, **{k: x.to(dtype) if isinstance(x, Tensor) else x for k, x in named.items()})

    return call


class RowOps(TensorOps):
    """Columns of one matrix [runs, numbers]; scalars are plain, or float64 of shape [runs, 1]. Nothing is changed."""

    differentiates = False

    add, mul, div, power = map(_fitting, (TensorOps.add, TensorOps.mul, TensorOps.div, TensorOps.power))
    lerp, lerp_square = map(_fitting, (TensorOps.lerp, TensorOps.lerp_square))
    decay_add, roots = map(_fitting, (TensorOps.decay_add, TensorOps.roots))


ROWS = RowOps()
