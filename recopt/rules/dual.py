"""Dual numbers: floats that carry one derivative along (forward mode)."""

from __future__ import annotations

import math
from typing import Any


class Dual:
    """A float with its derivative by one variable (forward mode)."""

    __slots__ = ("slope", "value")

    def __init__(self, value: float, slope: float) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.slope + other.slope)
        return Dual(self.value + other, self.slope)

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __sub__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value - other.value, self.slope - other.slope)
        return Dual(self.value - other, self.slope)

    def __rsub__(self, other: float) -> Dual:
        return Dual(other - self.value, -self.slope)

    def __mul__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)
        return Dual(self.value * other, self.slope * other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            # One quotient, so that what cancels exactly does so.
            slope = (self.slope * other.value - self.value * other.slope) / (other.value * other.value)
            return Dual(self.value / other.value, slope)
        return Dual(self.value / other, self.slope / other)

    def __rtruediv__(self, other: float) -> Dual:
        return Dual(other / self.value, -other * self.slope / (self.value * self.value))

    def __pow__(self, exponent: Any) -> Dual:
        if isinstance(exponent, Dual):
            value = self.value**exponent.value
            by_base = exponent.value * self.value ** (exponent.value - 1) * self.slope
            return Dual(value, by_base + value * math.log(self.value) * exponent.slope)
        return Dual(self.value**exponent, exponent * self.value ** (exponent - 1) * self.slope)

    def __rpow__(self, base: float) -> Dual:
        value = base**self.value
        return Dual(value, value * math.log(base) * self.slope)


def plain(x: Any) -> float:
    """The value of a float or a :class:`Dual`."""
    return x.value if isinstance(x, Dual) else x


def slope(x: Any) -> float:
    """The derivative that a number carries; 0 for a float."""
    return x.slope if isinstance(x, Dual) else 0.0
