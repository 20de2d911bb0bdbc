"""Numbers that are not finite, which JSON has not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def finite(value: Any, write: Callable[[float], Any]) -> Any:
    """``value``, mappings and lists within it too, with what ``write`` makes of each number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item, write) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, write) for item in value]
    return write(value) if isinstance(value, float) and not math.isfinite(value) else value
