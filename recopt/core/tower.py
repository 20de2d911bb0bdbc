"""The tower: what one evaluation of the task does to all levels.

``up`` carries signals from the task to the top: each level's is the derivative of what came after the updates below by
what it moves. ``down`` steps the levels from the top, so that the lower ones already use what the upper ones found
(Chandra et al. 2022, 1909.13371). The engine feeds it evaluations, :class:`recopt.Optimizer` feeds it ``p.grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..levels.graph import Graph
from ..levels.level import LOSS, TASK
from ..levels.state import RunState
from ..rules.shards import Shards
from . import guard
from .beginnings import Beginnings
from .bottom import Bottom
from .carriers import Carriers, Setting
from .down import Down
from .evaluation import Around, Evaluation, Trials
from .slots import Slots
from .tapes import Teaching
from .up import Up
from .windows import Windows


class Tower:
    """The levels of a graph over a task; it keeps nothing that outlasts a step, the state is its caller's.

    Args:
        names: the names of the task's movable parameters, in a state.
        shards: how the task's tensors are split over processes.
        around: what happens around the levels; None in a training loop that is not ours.
        teaching: the teachers of levels that imitate, if any do.
        searching: whether what happens in a state may yet be taken back.

    Attributes:
        up: sends what was found of the task up; the number of levels that may now step, counted from the innermost.
    """

    def __init__(
        self, graph: Graph, setting: Setting, names: Callable[[RunState], Sequence[str]], *,
        shards: Shards | None = None, around: Around | None = None, teaching: Teaching | None = None,
        searching: Callable[[RunState], bool] = lambda state: False,
    ) -> None:  # fmt: skip
        self.graph, self.setting, self.around = graph, setting, around
        self.carriers = Carriers(graph, setting)
        self.slots = Slots(self.carriers, names)
        self.beginnings = Beginnings(self.carriers, self.slots)
        self.bottom = Bottom(self.carriers, self.slots, self.beginnings, shards or Shards())
        self.windows = Windows(self.carriers, self.slots, self.bottom, around, teaching=teaching, searching=searching)
        self.up = Up(self.carriers, self.slots, self.bottom, self.windows, around)
        self._down = Down(self.carriers, self.slots, self.bottom, self.windows, around)
        self.forward = self._down.forward
        self._begins = {numbers[-1]: name for name, numbers in graph.movers.items() if numbers}
        self._reads = graph.movers[TASK][-1] if graph.movers[LOSS] else -1
        self._moved = [(name, numbers[0], numbers[1:]) for name, numbers in graph.movers.items() if numbers]

    def search_with(self, trials: Trials) -> None:
        """Let ``trials`` try points for the zero-order levels."""
        self.up.trials = self._down.trials = trials

    def down(self, state: RunState, top: int, found: Evaluation, scale: float = 1.0) -> None:
        """Step the levels below number ``top`` that have a signal, the highest first.

        ``scale`` is on the updates of levels that move the task, besides the factors of guard and schedule.
        """
        down, around, begins = self._down, self.around, self._begins
        for number in range(top - 1, -1, -1):
            if number == self._reads:
                self.up.again(state, found)
            if around is not None and (state.resets or state.due) and number in begins:
                around.begin(state, begins[number])
            down(state, number, found, scale)
        if state.guard is not None:
            guard.stepped(state.guard, state.good)
        self._finish(state)

    def _finish(self, state: RunState) -> None:
        """Forget this step's signals."""
        pending = state.pending
        for name, first, others in self._moved:
            if pending[first] is None and (not others or all(pending[n] is None for n in others)):
                continue
            if name not in state.resets:
                state.slots[name].age += 1
                state.step += name == TASK
        state.pending = [None] * len(self.graph.levels)
        state.resets, state.due = [], []
