"""What the levels of a graph move: how it begins, where it is in a state of the run, and how it is set."""

from __future__ import annotations

from torch import Generator

from ..contracts import trees
from ..contracts.strategy import Params, State
from ..core.graph import Graph
from ..core.level import TASK
from ..core.seeds import mix
from ..core.state import LevelState, RunState, SlotState, Window
from .apply import Caller
from .family import Family


class Slots:
    """The slots of a graph, in any state of a run.

    Attributes:
        callers: every strategy, ready to be called with any values of its parameters, by slot.
    """

    def __init__(self, graph: Graph, family: Family) -> None:
        self.graph, self.levels, self.family = graph, graph.levels, family
        for strategy in graph.slots.values():
            strategy.to(family.device, family.dtype)
        self.callers = {name: Caller(strategy) for name, strategy in graph.slots.items()}
        self._index = [graph.moved(n, graph.names[level.moves]) for n, level in enumerate(self.levels)]

    # beginnings

    def first(self) -> RunState:
        """The state of a run before its first step."""
        slots = {TASK: self.family.fresh(0)}
        for name, strategy in self.graph.slots.items():
            slots[name] = SlotState([p.detach().clone() for p in strategy.parameters()], [])
        state = RunState(slots, [], [None] * len(self.levels))
        for number in range(len(self.levels)):
            rng = Generator().manual_seed(mix(self.family.seed, 2, number))
            window = Window.empty(len(self.graph.subjects[number]))
            state.levels.append(LevelState(self.init(state, number), {}, rng.get_state(), window))
        for name in self.graph.slots:
            self.leaves(state, name)
        return state

    def renew(self, state: RunState, name: str) -> None:
        """Draw the value of a slot anew."""
        slot = state.slots[name]
        draw = slot.draw + 1
        if name == TASK:
            state.slots[name] = self.family.fresh(draw)
        else:
            fresh = self.graph.slots[name].afresh(self.family.seed, draw).to(self.family.device, self.family.dtype)
            state.slots[name] = SlotState([p.detach() for p in fresh.parameters()], [], draw=draw)
        state.slots[name].version = slot.version + 1
        self.leaves(state, name)

    def init(self, state: RunState, number: int) -> State:
        """The state of a level's strategy before its first step."""
        return self.callers[self.levels[number].by].init(self.point(state, number), self.tasks(number))

    def tasks(self, number: int) -> int:
        """How many points level ``number`` moves side by side: as many as there are tasks, or one strategy."""
        return self.family.count if self.levels[number].moves == TASK else 1

    # values

    def index(self, state: RunState, number: int) -> list[int]:
        """Which of its slot's parameters a level moves; for the task it may change with the draw."""
        if self.levels[number].moves != TASK:
            return self._index[number]
        drawn = self.family.drawn(state.slots[TASK].draw)
        if number not in drawn.index:
            drawn.index[number] = self.graph.moved(number, drawn.names)
        return drawn.index[number]

    def point(self, state: RunState, number: int) -> Params:
        """What a level moves, at its present value."""
        params = state.slots[self.levels[number].moves].params
        return [params[i] for i in self.index(state, number)]

    def put(self, state: RunState, number: int, values: Params) -> None:
        """Set what a level moves."""
        name = self.levels[number].moves
        slot = state.slots[name]
        slot.version += 1
        for i, value in zip(self.index(state, number), values, strict=True):
            slot.params[i] = value
        self.leaves(state, name)

    def leaves(self, state: RunState, name: str) -> None:
        """Make what hypergradient levels move in a strategy's slot require gradients."""
        if name == TASK:
            return
        slot = state.slots[name]
        for number in self.graph.movers[name]:
            if self.levels[number].taping:
                for i in self._index[number]:
                    if not slot.params[i].requires_grad:
                        slot.params[i] = slot.params[i].detach().requires_grad_()

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape through what a level moves, and through the state that its strategy keeps for that."""
        name, own = self.levels[number].moves, state.levels[number]
        params = state.slots[name].params
        for i in self.index(state, number):
            params[i] = params[i].detach()
        self.leaves(state, name)
        own.strategy, own.normal = trees.detach(own.strategy), trees.detach(own.normal)
