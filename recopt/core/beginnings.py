"""Beginnings: of a run, of a strategy's slot, and of the state of a level's strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator

from ..contracts.strategy import State
from ..levels.level import TASK
from ..levels.parts import Part
from ..levels.seeds import mix
from ..levels.state import LevelState, Numbers, RunState, SlotState, Window
from ..rules.tensors import TensorMover
from .carriers import Carriers
from .slots import Slots


class Beginnings:
    """Makes what a run begins with, and what begins anew in its course."""

    def __init__(self, carriers: Carriers, slots: Slots) -> None:
        self.graph, self.levels, self.carriers, self.slots = carriers.graph, carriers.levels, carriers, slots

    def first(self, task: SlotState) -> RunState:
        """The state of a run before its first step."""
        made = {name: self.made(name, strategy) for name, strategy in self.graph.slots.items()}
        state = RunState({TASK: task, **made}, [], [None] * len(self.levels))
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
        self.slots.leaves(slot, name)
        return slot

    def begin(self, state: RunState, number: int) -> None:
        """Begin a level's strategy anew for all that it moves; one that moves the task, at its first gradient."""
        level, own = self.levels[number], state.levels[number]
        places = list(range(len(self.slots.index(state, number))))
        own.parts = [] if level.moves == TASK else [Part(places, self.state_at(state, number, places))]

    def state_at(self, state: RunState, number: int, places: Sequence[int]) -> State:
        """The state of a level's strategy before its first step on those of its parameters at ``places``."""
        mover, point = self.carriers.movers[number], self.slots.point(state, number)
        mine: Any = [point[i] for i in places]
        if isinstance(mover, TensorMover):
            return mover.begin(self.slots.tensors(number, mine), self.carriers.tasks[number])
        return mover.begin(mine)
