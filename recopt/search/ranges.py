"""The values that a setting is searched over: a range, or a list of choices."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..checking.errors import RecoptError, quoted, unknown

_RANGE = re.compile(
    r"\s*(?P<low>\S+?)\s*\.\.\s*(?P<high>\S+)(?:\s+(?P<scale>[a-z]+))?(?:\s+in\s+(?P<count>\d{1,6}))?\s*"
)
_FORM = "should be a range like 1e-4..1, or a list like [16, 32, 64]"
SCALES = ("log", "linear", "gap")


class Range(NamedTuple):
    """A range of numbers x, uniform in ln x (``log``), in x (``linear``), or in ln(1 − x) (``gap``).

    Attributes:
        low, high: the ends, of x; for ``gap``, of 1 − x.
        whole: whether x is rounded to whole numbers.
    """

    low: float
    high: float
    scale: str = "log"
    whole: bool = False

    def value(self, unit: float) -> float:
        """The value at ``unit`` in [0, 1]."""
        if self.scale == "linear":
            found = self.low + unit * (self.high - self.low)
        else:
            found = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        found = 1 - found if self.scale == "gap" else found
        return round(found) if self.whole else found

    def unit(self, value: float) -> float:
        """The position of ``value`` in [0, 1], clipped: the inverse of :meth:`value`."""
        found = min(max(1 - value if self.scale == "gap" else value, self.low), self.high)
        if self.scale == "linear":
            return (found - self.low) / (self.high - self.low)
        return math.log(found / self.low) / math.log(self.high / self.low)


RANGES = {
    "lr": Range(1e-5, 10),
    "weight_decay": Range(1e-6, 1),
    "momentum": Range(0.003, 0.7, "gap"),
    "beta1": Range(0.01, 0.7, "gap"),
    "beta2": Range(5e-4, 0.5, "gap"),
    "alpha": Range(5e-4, 0.5, "gap"),
}
"""The usual ranges of hyperparameters, by name."""


class Axis(NamedTuple):
    """A setting with the values it is searched over: ``choices``, or those of ``range`` where that is given."""

    name: str
    choices: tuple[Any, ...] = ()
    range: Range | None = None

    def value(self, unit: float) -> Any:
        """The value at ``unit`` in [0, 1]; of a range, in six digits, so that it is readable wherever it is written."""
        if self.range:
            return _readable(self.range.value(unit), self.range.scale)
        return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values by which it is checked: the ends of a range, or all choices."""
        return (self.value(0.0), self.value(1.0)) if self.range else self.choices


def axis(name: str, values: object) -> Axis:
    """The axis of a setting: ``1e-4..1``, ``8..128``, ``0.9..0.999``, ``0..1 in 5``, ``[16, 32]``, or its usual range.

    A range is uniform in the logarithm; in ln(1 − x) if it lies within [0.5, 1); in x itself if its lower end is not
    above 0. A word after it says another of these: ``log``, ``gap``, ``linear``. Ends that are whole numbers make all
    of its values whole. ``in 5`` makes it five choices, evenly spaced from end to end. None is the usual range of a
    hyperparameter of that name (``RANGES``), as in a comparison's tuning.

    Raises:
        RecoptError: for values of another form.
    """
    if values is None:
        last = name.rpartition(".")[2]
        if last not in RANGES:
            raise RecoptError(f"'{name}' has no usual range (known: {', '.join(RANGES)}): say {name}=LOW..HIGH.")
        return Axis(name, range=RANGES[last])
    if isinstance(values, Sequence) and not isinstance(values, str):
        if not values:
            raise RecoptError(f"'{name}' has no values to search over: give some, like [16, 32, 64].")
        if (double := [one for n, one in enumerate(values) if one in values[:n]]) and len(values) < 1000:
            raise RecoptError(f"'{name}' has the value {quoted(double[0])} twice: keep one of them.")
        return Axis(name, tuple(values))
    found = _RANGE.fullmatch(values) if isinstance(values, str) else None
    if found is None:
        raise RecoptError(f"'{name}' {_FORM}, not {quoted(values)}.")
    made = _range(name, found["low"], found["high"], found["scale"])
    if not found["count"]:
        return Axis(name, range=made)
    count = int(found["count"])
    if count < 2:
        raise RecoptError(f"'{name}' has a range in {count}: give two values at least, for its two ends.")
    return Axis(name, tuple(dict.fromkeys(_readable(made.value(n / (count - 1)), made.scale) for n in range(count))))


def _readable(value: float, scale: str) -> float:
    size = abs(1 - value if scale == "gap" else value)
    return value if isinstance(value, int) or size == 0 else round(value, 5 - math.floor(math.log10(size)))


def _range(name: str, first: str, last: str, scale: str | None) -> Range:
    try:
        low, high = float(first), float(last)
    except ValueError:
        raise RecoptError(f"'{name}' {_FORM}, not '{first}..{last}'.") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecoptError(f"'{name}' has a range from {first} to {last}: its ends should be numbers, the lower first.")
    if scale is None:
        scale = "linear" if low <= 0 else "gap" if low >= 0.5 and high < 1 else "log"
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES, f"of '{name}'")
    if scale == "log" and low <= 0:
        raise RecoptError(f"'{name}' has a logarithmic range from {first}: its ends should be above 0.")
    if scale == "gap" and high >= 1:
        raise RecoptError(f"'{name}' has a range of 1 − x up to {last}: its ends should be below 1.")
    whole = all(re.fullmatch(r"[+-]?\d+", text) for text in (first, last))
    return Range(1 - high, 1 - low, scale, False) if scale == "gap" else Range(low, high, scale, whole)
