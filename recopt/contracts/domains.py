"""Domains: the set a hyperparameter lives in, and the unconstrained coordinate it moves in.

A level above adds deltas to the *coordinate*; the strategy reads the *natural* value. A learning rate
is positive, so its coordinate is its logarithm: no step can make it negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checking.errors import RecoptError, unknown


@dataclass(frozen=True)
class Domain:
    """A set of reals with a bijection to the whole line. This base class is the line itself (``real``)."""

    name: str = "real"

    def natural(self, coordinate: Tensor) -> Tensor:
        """The value in its natural unit; differentiable, elementwise, same shape."""
        return coordinate

    def coordinate(self, value: float) -> float:
        """The inverse of :meth:`natural`. Raises ValueError outside the domain."""
        if not math.isfinite(value):
            raise ValueError("a finite number")
        return value


@dataclass(frozen=True)
class Positive(Domain):
    """(0, ∞), moved as a logarithm."""

    name: str = "positive"

    def natural(self, coordinate: Tensor) -> Tensor:
        return coordinate.exp()

    def coordinate(self, value: float) -> float:
        if not (value > 0 and math.isfinite(value)):
            raise ValueError("a number above 0")
        return math.log(value)


@dataclass(frozen=True)
class Unit(Domain):
    """(0, 1), moved as a logit: symmetric in β and 1 − β, and logarithmic towards either end."""

    name: str = "unit"

    def natural(self, coordinate: Tensor) -> Tensor:
        return torch.sigmoid(coordinate)

    def coordinate(self, value: float) -> float:
        if not 0 < value < 1:
            raise ValueError("a number between 0 and 1")
        return math.log(value) - math.log1p(-value)


DOMAINS: dict[str, Domain] = {d.name: d for d in (Domain(), Positive(), Unit())}


def domain_named(name: str) -> Domain:
    """The domain called ``name`` (``real``, ``positive``, ``unit``). Raises RecoptError if there is none."""
    if name not in DOMAINS:
        raise unknown("domain", name, DOMAINS)
    return DOMAINS[name]


def coordinate_of(domain: Domain, value: float, where: str) -> float:
    """The coordinate of ``value`` in ``domain``. Raises RecoptError naming ``where`` if ``value`` lies outside."""
    try:
        return domain.coordinate(value)
    except ValueError as why:
        raise RecoptError(f"{where} must be {why}, not {value:g}.") from None
