"""The meta-loss alone, for zero-order strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..contracts.strategy import Params
from ..levels.estimator import Closing, estimator
from ..levels.level import Level
from ..levels.state import Signal, Window
from ..levels.structure import Structure
from .tape import value


@estimator("value")
class Value:
    """The score of a window."""

    gradients: ClassVar[bool] = False
    closed: ClassVar[bool] = False
    tapes: ClassVar[bool] = False

    def refusal(self, graph: Structure, number: int) -> str | None:
        """Values can be had of anything."""
        return None

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        """The window's score, without a gradient."""
        return Signal(value(level, window, slots, moved, how.imitation))
