"""Arithmetic on a number for each tensor, by a rule's vocabulary (:class:`recopt.Ops`)."""

from __future__ import annotations

from typing import Any

__all__ = ["at_most", "between", "cosine"]

Column = Any


def at_most(ops: Any, a: Column, most: float) -> Column:
    """The smaller of an entry and a plain number."""
    return ops.mul(ops.at_least(ops.mul(a, -1.0), -most), -1.0)


def between(ops: Any, a: Column, none: float, whole: float) -> Column:
    """From 0 where an entry is ``none`` to 1 where it is ``whole`` along a line, and no further."""
    return at_most(ops, ops.at_least(ops.mul(ops.add(a, -none), 1 / (whole - none)), 0.0), 1.0)


def cosine(ops: Any, a: Column, b: Column, square: Column) -> Column:
    """The cosine of two columns over all tensors, where ‖a‖² is ``square``."""
    product, length = (ops.together(ops.inner(b, each)) for each in (a, b))
    return ops.div(product, ops.roots(ops.mul(square, length)))
