"""The slots of a graph: how they begin, where each level finds what it moves, and how it is set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.seeds import mix
from ..levels.state import LevelState, Numbers, Part, RunState, SlotState, Values, Window
from ..rules.tensors import TensorMover
from .carriers import Carriers


class Slots:
    """The optimizees of levels, in any state of a run.

    Args:
        names: the names of the task's movable parameters in a state.
    """

    def __init__(self, graph: Graph, carriers: Carriers, names: Callable[[RunState], Sequence[str]]) -> None:
        self.graph, self.levels, self.carriers, self._names = graph, graph.levels, carriers, names
        self._index = [[] if x.moves == TASK else graph.moved(n, graph.names[x.moves])
                       for n, x in enumerate(self.levels)]  # fmt: skip
        self._of_task: dict[int, tuple[Sequence[str], int, list[int]]] = {}

    # beginnings

    def first(self, task: SlotState) -> RunState:
        """The state of a run before its first step."""
        slots: dict[str, SlotState | Numbers] = {TASK: task}
        slots |= {name: self.made(name, strategy) for name, strategy in self.graph.slots.items()}
        state = RunState(slots, [], [None] * len(self.levels))
        for number in range(len(self.levels)):
            rng = torch.empty(0, dtype=torch.uint8)
            if self.carriers.draws[number]:
                rng = Generator().manual_seed(mix(self.carriers.setting.seed, 2, number)).get_state()
            window = Window.empty(len(self.graph.subjects[number]))
            state.levels.append(LevelState([], rng, window))
            if self.levels[number].moves != TASK:
                self.begin(state, number)
        return state

    def made(self, name: str, strategy: Any) -> SlotState | Numbers:
        """The value of a strategy's slot, as ``strategy`` was made."""
        if name in self.carriers.spaces:
            return self.carriers.spaces[name].first(strategy)
        slot = SlotState([p.detach().clone() for p in strategy.parameters()], [])
        self._leaves(slot, name)
        return slot

    def begin(self, state: RunState, number: int) -> None:
        """Begin a level's strategy anew for all that it moves; one that moves the task, at its first gradient."""
        level, own = self.levels[number], state.levels[number]
        places = list(range(len(self.index(state, number))))
        own.parts = [] if level.moves == TASK else [Part(places, self.state_at(state, number, places))]

    def state_at(self, state: RunState, number: int, places: Sequence[int]) -> State:
        """The state of a level's strategy before its first step on those of its parameters at ``places``."""
        mover, point = self.carriers.movers[number], self.point(state, number)
        mine: Any = [point[i] for i in places]
        if isinstance(mover, TensorMover):
            tasks = self.carriers.setting.tasks if self.levels[number].moves == TASK else 1
            return mover.begin(self.tensors(number, mine), tasks)
        return mover.begin(mine)

    # values

    def index(self, state: RunState, number: int) -> list[int]:
        """The places in its slot of what a level moves; in the task they may change with the draw."""
        if self.levels[number].moves != TASK:
            return self._index[number]
        names = self._names(state)
        known = self._of_task.get(number)
        if known is None or known[0] is not names or known[1] != len(names):
            known = self._of_task[number] = (names, len(names), self.graph.moved(number, names))
        return known[2]

    def indices(self, number: int) -> list[int]:
        """The places in its slot of what a level above the first moves."""
        return self._index[number]

    def point(self, state: RunState, number: int) -> Values:
        """The optimizee of a level at its present value: tensors or floats."""
        slot = state.slots[self.levels[number].moves]
        values: Values = slot.coords if isinstance(slot, Numbers) else slot.params
        return [values[i] for i in self.index(state, number)]

    def tensors(self, number: int, values: Values) -> Params:
        """``values`` of what a level moves as detached tensors, in the dtype that its strategy computes in."""
        cast = self.carriers.cast(number)
        made = [v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in values]
        home = self.carriers.setting.device
        return [m.to(home, cast) if cast is not None and m.dtype != cast else m for m in made]

    def strategy(self, state: RunState, name: str) -> Params:
        """The parameters of a strategy as its ``forward`` is to read them: leaves of the tape where there is one."""
        slot = state.slots[name]
        return slot.taped() if isinstance(slot, Numbers) else slot.params

    def put(self, state: RunState, number: int, values: Values) -> None:
        """Set what a level moves."""
        name = self.levels[number].moves
        slot, index = state.slots[name], self.index(state, number)
        if isinstance(slot, Numbers):
            found = [float(v.detach() if isinstance(v, Tensor) else v) for v in values]
            self.carriers.spaces[name].put(slot, index, found)
            return
        slot.version += 1
        for i, value in zip(index, values, strict=True):
            if name == TASK and self.carriers.setting.in_place:
                slot.params[i].copy_(value.detach())
            else:
                slot.params[i] = value
        self._leaves(slot, name)

    def _leaves(self, slot: SlotState, name: str) -> None:
        """Make what taping levels move in a strategy's slot require gradients."""
        if name == TASK:
            return
        for number in self.graph.movers[name]:
            if self.levels[number].taping:
                for i in self._index[number]:
                    if not slot.params[i].requires_grad:
                        slot.params[i] = slot.params[i].detach().requires_grad_()

    def leaves(self, state: RunState, name: str) -> None:
        """Make what taping levels move in a slot leaves of the next tape, after a state was copied."""
        slot = state.slots[name]
        if isinstance(slot, SlotState):
            self._leaves(slot, name)

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape through what a level moves, and through the state that its strategy keeps for that."""
        name, own = self.levels[number].moves, state.levels[number]
        slot = state.slots[name]
        if isinstance(slot, SlotState):
            for i in self.index(state, number):
                if slot.params[i].requires_grad:
                    slot.params[i] = slot.params[i].detach()
            self._leaves(slot, name)
        own.live, own.before = trees.detach(own.live), trees.detach(own.before)
        by = state.slots[self.levels[number].by]
        if isinstance(by, Numbers):
            by.leaves = [None] * len(by.leaves)
        for part in own.parts:
            part.strategy, part.normal = trees.detach(part.strategy), trees.detach(part.normal)
