"""Reptile: the way from the end of an episode back to its start (Nichol et al. 2018, 1803.02999)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..contracts.strategy import Params
from ..levels.estimator import Closing, estimator
from ..levels.level import INIT, Level
from ..levels.state import Signal, Window
from ..levels.structure import Structure
from .tape import value


@estimator("reptile")
class Reptile:
    """φ − θ_T, the mean over tasks, in the place of a start's gradient: SGD of rate ε moves φ to φ + ε(θ_T − φ).

    No derivative is taken; the meta-loss is of the record alone.
    """

    gradients: ClassVar[bool] = True
    closed: ClassVar[bool] = False
    tapes: ClassVar[bool] = True

    def refusal(self, graph: Structure, number: int) -> str | None:
        """Anything but a start that one level moves away from by gradients."""
        level, subjects = graph.levels[number], graph.subjects[number]
        if level.moves != INIT:
            return "gradient=reptile is the way from a start to the end of its episode: use it for 'init:' alone."
        if level.second_order or level.penalty_update or level.penalty_moved:
            return "gradient=reptile has no derivative: leave second_order and the penalties out."
        if level.only or len(subjects) > 1:
            return "gradient=reptile is of a whole model that one level moves: drop the patterns, or use unroll."
        if graph.order(subjects[0]) == 0:
            return f"'{graph.levels[subjects[0]].by}' is zero-order: move the start by another, such as annealing."
        return None

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        """The mean over tasks of what lies between the end of the window and the start."""
        ends = window.records[0][-1].point
        grads = [p - e.detach().reshape(-1, *p.shape).mean(0) for p, e in zip(moved, ends, strict=True)]
        return Signal(value(level, window, slots, moved), [g.detach() for g in grads])
