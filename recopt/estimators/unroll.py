"""Backpropagation through a window of updates, with second derivatives or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..contracts.strategy import Params
from ..levels.estimator import Closing, estimator
from ..levels.level import TASK, Level
from ..levels.state import Signal, Window
from ..levels.structure import Structure
from . import segments
from .tape import close, close_slopes


@estimator("unroll")
class Unroll:
    """One vector-Jacobian product of a window's updates with the gradients that came after them."""

    gradients: ClassVar[bool] = True
    closed: ClassVar[bool] = True
    tapes: ClassVar[bool] = True

    def refusal(self, graph: Structure, number: int) -> str | None:
        """A level below that cannot be differentiated, or an objective without a gradient."""
        level = graph.levels[number]
        if level.objective and level.objective.startswith("steps_to"):
            return "steps_to has no gradient: use it with a zero-order strategy, or objective=mean here."
        for m in graph.subjects[number]:
            below = graph.levels[m]
            if graph.order(m) == 0:
                return (f"no gradient passes through level {m + 1}, since '{below.by}' is zero-order: move it by a "
                        "zero-order strategy such as annealing.")  # fmt: skip
            if level.second_order and below.moves != TASK and not below.second_order and not below.perturbs:
                mend = f"set level{m + 1}.second_order=true or level{number + 1}.second_order=false"
                return f"second derivatives are dropped in level {m + 1} beneath: {mend}."
        return segments.refusal(graph, number) if level.segments else None

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        """The derivative of the window's score, from its tape or from closed derivatives."""
        if (level.segments or 1) > 1:
            return segments.close(level, window, moved, how)
        if not moved:
            return close_slopes(level, window, slots)
        return close(level, window, slots, moved, how)
