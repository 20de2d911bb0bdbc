"""The slots of a graph: where each level finds what it moves, and how it is set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.level import INIT, TASK
from ..levels.state import Numbers, RunState, Signal, SlotState, Values
from .carriers import Carriers


class Slots:
    """The optimizees of levels, in any state of a run.

    Args:
        names: the names of the task's movable parameters in a state.
    """

    def __init__(self, carriers: Carriers, names: Callable[[RunState], Sequence[str]]) -> None:
        self.graph, self.levels, self.carriers, self._names = carriers.graph, carriers.levels, carriers, names
        self._index = [[] if x.moves == TASK else self.graph.moved(n, self.graph.names[x.moves])
                       for n, x in enumerate(self.levels)]  # fmt: skip
        self._of_task: dict[int, tuple[Sequence[str], int, list[int]]] = {}

    def index(self, state: RunState, number: int) -> list[int]:
        """The places in its slot of what a level moves; in the task they may change with the draw."""
        if self.levels[number].moves != TASK:
            return self._index[number]
        names = self._names(state)
        known = self._of_task.get(number)
        if known is None or known[0] is not names or known[1] != len(names):
            known = self._of_task[number] = (names, len(names), self.graph.moved(number, names))
        return known[2]

    def point(self, state: RunState, number: int) -> Values:
        """The optimizee of a level at its present value: tensors or floats."""
        slot = state.slots[self.levels[number].moves]
        values: Values = slot.coords if isinstance(slot, Numbers) else slot.params
        return [values[i] for i in self.index(state, number)]

    def tensors(self, number: int, values: Values) -> Params:
        """``values`` of what a level moves as detached tensors, in the dtype that its strategy computes in."""
        cast = self.carriers.cast(number)
        made = [v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in values]
        return [m.to(self.carriers.setting.device, cast) if cast is not None and m.dtype != cast else m for m in made]

    def numbers(self, state: RunState, number: int) -> Numbers:
        """The hyperparameters of a level's strategy, which has nothing else."""
        found = state.slots[self.levels[number].by]
        assert isinstance(found, Numbers)
        return found

    def unit(self, state: RunState, number: int, signal: Signal) -> float:
        """Two ``cosines`` of level ``number`` are measured by this: its step by one, times what one is measured by."""
        rule: Any = self.graph.slots[self.levels[number].by]
        return float(self.numbers(state, number).value[rule.linear] * signal.bound)

    def strategy(self, state: RunState, name: str) -> Params:
        """The parameters of a strategy as its ``forward`` is to read them: leaves of the tape where there is one."""
        slot = state.slots[name]
        return slot.taped() if isinstance(slot, Numbers) else slot.params

    def moved(self, state: RunState, number: int) -> Params:
        """The values that a level moves, as the strategy that has them reads them."""
        values = self.strategy(state, self.levels[number].moves)
        return [values[i] for i in self.index(state, number)]

    def put(self, state: RunState, number: int, values: Values) -> None:
        """Set what a level moves; a start that is moved begins an episode."""
        name = self.levels[number].moves
        slot, index = state.slots[name], self.index(state, number)
        if isinstance(slot, Numbers):
            found = [float(v.detach() if isinstance(v, Tensor) else v) for v in values]
            self.carriers.spaces[name].put(slot, index, found)
            return
        slot.version += 1
        state.resets += [TASK] if name == INIT and TASK not in state.resets else []
        for i, value in zip(index, values, strict=True):
            if name == TASK and self.carriers.setting.in_place:
                slot.params[i].copy_(value.detach())
            else:
                slot.params[i] = value
        self.leaves(slot, name)

    def leaves(self, slot: SlotState | Numbers, name: str) -> None:
        """Make what taping levels move in a strategy's slot, ``name``, leaves of the next tape."""
        if name == TASK or isinstance(slot, Numbers):
            return
        for i in (i for n in self.graph.movers[name] if self.levels[n].taping for i in self._index[n]):
            if not slot.params[i].requires_grad:
                slot.params[i] = slot.params[i].detach().requires_grad_()

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape through what a level moves, and through the state that its strategy keeps for that."""
        name, own = self.levels[number].moves, state.levels[number]
        slot = state.slots[name]
        if isinstance(slot, SlotState):
            for i in self.index(state, number):
                if slot.params[i].requires_grad:
                    slot.params[i] = slot.params[i].detach()
            self.leaves(slot, name)
        own.live, own.before = trees.detach(own.live), trees.detach(own.before)
        by = state.slots[self.levels[number].by]
        if isinstance(by, Numbers):
            by.leaves = [None] * len(by.leaves)
        for part in own.parts:
            part.detach()
