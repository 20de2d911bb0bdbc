"""Numbers for people and for JSON: in the digits that are sure, and where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def as_given(value: float, bits: int = 64) -> float:
    """``value`` in the digits that are sure: its logarithm is kept, and 0.01 is to be read back as 0.01."""
    return float(f"{value:.{14 if bits == 64 else 6}g}")


def short(value: float) -> str:
    """A number with four digits, or ``not finite``."""
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def span(seconds: float) -> str:
    """A duration as text: ``3.2 s``, ``5 min``, ``1 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def hypers(values: Mapping[str, float]) -> str:
    """Hyperparameters as one line of text."""
    return "  ".join(f"{name} {short(value)}" for name, value in values.items())


def finite(value: Any, write: Callable[[float], Any]) -> Any:
    """``value``, mappings and lists within it too, with what ``write`` makes of each number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item, write) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, write) for item in value]
    return write(value) if isinstance(value, float) and not math.isfinite(value) else value


def float_of(value: float) -> float:
    """A number as a float; infinity where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
