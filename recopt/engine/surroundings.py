"""The surroundings of a run's levels: fresh starts, lessons, schedules, the record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..core import guard
from ..core.evaluation import Moved
from ..levels.graph import Graph
from ..levels.state import Pair, RunState, Signal
from .episodes import Episodes
from .imitation import Imitation


class Surroundings:
    """The surroundings of a tower in a run; ``episodes`` are set once the tower is there.

    Args:
        charge: charges a level for one hypergradient.

    Attributes:
        quiet: whether what happens is replayed, and so neither told nor charged again.
    """

    episodes: Episodes

    def __init__(self, graph: Graph, imitation: Imitation, charge: Callable[[RunState, int], None]) -> None:
        self.graph, self.imitation, self.charge = graph, imitation, charge
        self.quiet = False

    def closed(self, state: RunState, number: int) -> None:
        """Charge a level for its hypergradient, and end the episodes that its window ends."""
        self.charge(state, number)
        self.episodes.close(state, number)

    def begin(self, state: RunState, name: str) -> None:
        """Start a slot afresh if that is due."""
        self.episodes.begin(state, name)

    def lessons(self, state: RunState, number: int, signal: Signal, moved: Moved) -> dict[int, list[Pair]]:
        """By level above, an update beside that of the teacher."""
        return self.imitation.lessons(state, number, signal, moved)

    def factors(self, state: RunState, number: int) -> Sequence[float]:
        """The factors of the schedule on the next update of a level, per task."""
        level = self.graph.levels[number]
        return [level.factor(age) for age in self.episodes.ages(state, level.moves)]

    def log(self, state: RunState, number: int, values: dict[str, Any]) -> None:
        """Add a point to the record of level ``number`` (0-based; −1: the task)."""
        state.log.append((number + 1, state.step, values))
        if values.get("frozen") and not self.quiet:
            self._tell(state, values["frozen"])

    def _tell(self, state: RunState, frozen: int) -> None:
        assert state.guard is not None
        tasks = len(state.guard.bad_run)
        whose = f", {frozen} of {tasks} tasks" if tasks > 1 else ""
        warnings.warn(
            f"'task' stands still at step {state.step:,}{whose}: {guard.FROZEN} evaluations had a loss or gradient "
            "that is not finite, or a loss that explodes, and hardly a step between them went well.",
            RuntimeWarning,
            stacklevel=2,
        )
