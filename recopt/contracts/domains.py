"""Domains: the set a hyperparameter lives in, and the unconstrained coordinate it moves in.

A level above adds deltas to the *coordinate*; the strategy reads the *natural* value. A learning rate
is positive, so its coordinate is its logarithm: no step can make it negative. Whole numbers and
choices are rounded from theirs (:mod:`recopt.toolkit.discrete`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checking.errors import RecoptError, quoted


@dataclass(frozen=True)
class Domain:
    """A set of numbers with a map from the whole line onto it. This base class is the line itself (``real``)."""

    name: str = "real"
    smooth: ClassVar[bool] = True
    """Whether the map has a useful derivative; if not, only zero-order levels may move along it."""
    numeric: ClassVar[bool] = True
    """Whether values are given as numbers."""

    def among(self, options: Mapping[str, Any]) -> Domain:
        """The domain in a strategy with these options."""
        return self

    def natural(self, coordinate: Tensor) -> Tensor:
        """The value in its natural unit; differentiable, elementwise, same shape."""
        return coordinate

    def ends(self) -> tuple[float, float]:
        """The coordinates between which there are natural values in floating point."""
        return -math.inf, math.inf

    def coordinate(self, value: Any) -> float:
        """A coordinate whose :meth:`natural` is ``value``. Raises ValueError outside, saying what is within."""
        if not math.isfinite(value):
            raise ValueError("a finite number")
        return float(value)


@dataclass(frozen=True)
class Positive(Domain):
    """(0, ∞), moved as a logarithm."""

    name: str = "positive"

    def ends(self) -> tuple[float, float]:
        return -80.0, 80.0  # 1e±35

    def natural(self, coordinate: Tensor) -> Tensor:
        return coordinate.exp()

    def coordinate(self, value: Any) -> float:
        if not (value > 0 and math.isfinite(value)):
            raise ValueError("a number above 0")
        return math.log(value)


@dataclass(frozen=True)
class Unit(Domain):
    """(0, 1), moved as a logit: symmetric in β and 1 − β, and logarithmic towards either end."""

    name: str = "unit"

    def ends(self) -> tuple[float, float]:
        return -30.0, 30.0  # 1e-13 from either end

    def natural(self, coordinate: Tensor) -> Tensor:
        return torch.sigmoid(coordinate)

    def coordinate(self, value: Any) -> float:
        if not 0 < value < 1:
            raise ValueError("a number between 0 and 1")
        return math.log(value) - math.log1p(-value)


DOMAINS: dict[str, Domain] = {d.name: d for d in (Domain(), Positive(), Unit())}


def coordinate_of(domain: Domain, value: Any, where: str) -> float:
    """The coordinate of ``value`` in ``domain``. Raises RecoptError naming ``where`` if ``value`` lies outside."""
    try:
        return domain.coordinate(value)
    except ValueError as why:
        given = f"{value:g}" if isinstance(value, float) else quoted(value)
        raise RecoptError(f"{where} must be {why}, not {given}.") from None
