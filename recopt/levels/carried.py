"""Levels whose estimators carry something along with the task, step by step, in place of a tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..contracts.strategy import Params
from .crossing import Crossing
from .estimator import Carrying
from .level import DIRECT, TASK, Level
from .registry import ESTIMATORS
from .state import RunState, Signal


class Carried:
    """Tells such levels what happens to the task.

    Args:
        moved: what a level moves, as the strategy below reads it; ``index``: its places in its slot.

    Attributes:
        numbers: of the levels.
    """

    def __init__(
        self, levels: Sequence[Level], moved: Callable[[RunState, int], Params],
        index: Callable[[RunState, int], Sequence[int]],
    ) -> None:  # fmt: skip
        self.levels, self.moved, self.index = levels, moved, index
        self._by: dict[int, Any] = {n: ESTIMATORS[x.gradient or ""] for n, x in enumerate(levels) if carries(x)}
        self.numbers = list(self._by)

    def arrive(self, state: RunState, signal: Signal) -> None:
        """The task has been evaluated: ``signal`` is on the training loss, of all that is moved of the model."""
        for n, estimator in self._by.items():
            estimator.arrive(state.levels[n].carried, state.task, signal, self.moved(state, n))

    def slopes(self, state: RunState, number: int, signal: Signal) -> list[Tensor]:
        """The derivative of a loss of the task by each number that level ``number`` moves."""
        carried = state.levels[number].carried
        found: list[Tensor] = self._by[number].slopes(carried, state.task, signal, self.moved(state, number))
        return found

    def along(self, state: RunState, number: int, signal: Signal, step: Callable[[Signal], Any]) -> Any:
        """The answer of ``step`` on ``signal``; what is carried goes along, if the level moves the task."""
        if self.levels[number].moves != TASK:
            return step(signal)
        crossing = Crossing.open(state, number, self.index(state, number), signal)
        answer = crossing.step(step)
        for n, estimator in self._by.items():
            estimator.step(state.levels[n].carried, crossing, self.moved(state, n))
        crossing.close()
        return answer


def carries(level: Level) -> bool:
    """True if the level's estimator carries something along."""
    return level.gradient not in (None, DIRECT) and isinstance(ESTIMATORS[level.gradient or ""], Carrying)
