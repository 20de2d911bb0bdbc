"""The engine: evaluates the task, sends signals up the levels, then steps them from the top down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator

from . import tree
from .apply import Caller
from .budget import Budget
from .episodes import Episodes
from .evaluate import Evaluator, mix
from .graph import Graph
from .level import TASK
from .moves import Mover
from .search import Searcher
from .signals import Collector
from .state import LevelState, RunState, Signal, SlotState, Window
from .strategy import Params, State
from .task import Task
from .teacher import Teacher
from .watch import Watcher

Sink = Callable[[int, int, Mapping[str, Any]], None]
REPLAY = 100
"""Steps between two of the moments from which a checkpoint can be replayed, at least."""


class Engine:
    """A graph at work on a task.

    Args:
        task: the task, or the family that tasks are sampled from.
        graph: the levels, checked.
        seed: of everything random in the run.
        tasks: how many tasks are trained side by side.
        sink: called with (level, step, values) for every point of the record; level 0 is the task.
        each: whether the task's points also hold the loss of each task, under ``losses``.
    """

    def __init__(
        self, task: Task, graph: Graph, *, seed: int = 0, tasks: int = 1, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32, sink: Sink | None = None, each: bool = False,
    ) -> None:  # fmt: skip
        self.each = each
        self.graph, self.levels, self.sink, self.tasks, self.seed = graph, graph.levels, sink, tasks, seed
        self.device, self.dtype = torch.device(device), dtype
        self.evaluator = Evaluator(task, tasks, seed, self.device, dtype)
        graph.check_task(self.evaluator.drawn(0).names)
        for strategy in graph.slots.values():
            strategy.to(self.device, dtype)
        self.callers = {name: Caller(strategy) for name, strategy in graph.slots.items()}
        self._index = [graph.moved(n, graph.names[level.moves]) for n, level in enumerate(self.levels)]
        self.movers = {s: [n for n, x in enumerate(self.levels) if x.moves == s] for s in (TASK, *graph.slots)}
        self.budget = Budget(len(self.levels))
        self.collector, self.mover, self.episodes = Collector(self), Mover(self), Episodes(self)
        self.searcher, self.watcher = Searcher(self), Watcher(self)
        self.teacher = Teacher(self)
        self.episodes.check()
        torch.manual_seed(mix(seed, 1))
        self.state = self._first_state()
        self.clean, self.replay = self.state.copy(), 0

    # state

    def _first_state(self) -> RunState:
        slots = {TASK: self.evaluator.fresh(0)}
        for name, strategy in self.graph.slots.items():
            slots[name] = SlotState([p.detach().clone() for p in strategy.parameters()], [])
        state = RunState(slots, [], [None] * len(self.levels))
        for number in range(len(self.levels)):
            rng = Generator().manual_seed(mix(self.seed, 2, number))
            window = Window.empty(len(self.graph.subjects[number]))
            state.levels.append(LevelState(self.init(state, number), {}, rng.get_state(), window))
        for name in self.graph.slots:
            self.leaves(state, name)
        return state

    def init(self, state: RunState, number: int) -> State:
        """The state of a level's strategy before its first step."""
        tasks = self.tasks if self.levels[number].moves == TASK else 1
        return self.callers[self.levels[number].by].init(self.point(state, number), tasks)

    def index(self, state: RunState, number: int) -> list[int]:
        """Which of its slot's parameters a level moves; for the task it may change with the draw."""
        if self.levels[number].moves != TASK:
            return self._index[number]
        drawn = self.evaluator.drawn(state.slots[TASK].draw)
        if number not in drawn.index:
            drawn.index[number] = self.graph.moved(number, drawn.names)
        return drawn.index[number]

    def point(self, state: RunState, number: int) -> Params:
        """What a level moves, at its present value."""
        params = state.slots[self.levels[number].moves].params
        return [params[i] for i in self.index(state, number)]

    def put(self, state: RunState, number: int, values: Params) -> None:
        """Set what a level moves."""
        slot = state.slots[self.levels[number].moves]
        slot.version += 1
        for i, value in zip(self.index(state, number), values, strict=True):
            slot.params[i] = value

    def leaves(self, state: RunState, name: str) -> None:
        """Make what hypergradient levels move in a strategy's slot require gradients."""
        slot = state.slots[name]
        for number in self.movers[name]:
            if name != TASK and self.taping(number):
                for i in self._index[number]:
                    if not slot.params[i].requires_grad:
                        slot.params[i] = slot.params[i].detach().requires_grad_()

    def taping(self, number: int) -> bool:
        """Whether a level's signal is a hypergradient, so that what happens below it is taped."""
        return self.levels[number].gradient in ("unroll", "online")

    def above(self, number: int) -> list[int]:
        """The levels that are scored by what level ``number`` moves."""
        return [n for n, subjects in enumerate(self.graph.subjects) if number in subjects]

    # time

    def run(self, steps: int) -> None:
        """Step until ``steps`` updates of the task are done.

        A search that is open then stays open: :meth:`hand_on` gives the record of its trial so far, and
        :func:`recopt.held_out.settled` the state that it would go back to.
        """
        while self.state.step < steps:
            self.step()

    def step(self) -> None:
        """One evaluation of the task, and all that follows from it."""
        begin = time.perf_counter()
        top = len(self.levels)
        if self.state.middle:
            self.state.middle = False
        else:
            top = self._up()
        payer = self.searcher.payer(self.state)
        for number in reversed(range(top)):
            self.mover.move(self.state, number)
        self.mover.finish(self.state)
        self.replay += 1
        self.budget.spend(payer, seconds=time.perf_counter() - begin)
        if not self.searcher.active(self.state):
            self.hand_on(self.state)

    def _up(self) -> int:
        """Evaluate and send signals up; the number of levels that may now step, counted from the innermost."""
        self.collector.evaluate(self.state)
        for number, level in enumerate(self.levels):
            if level.moves == TASK or not self.collector.collect(self.state, number):
                continue
            if level.gradient != "value":
                self.collector.close(self.state, number)
            elif self.searcher.judge(number):
                return number
        self._mark()
        return len(self.levels)

    def _mark(self) -> None:
        """Remember this moment, from which everything can be replayed, if no tape is open."""
        if self.replay < REPLAY or not self.searcher.closed(self.state):
            return
        self.state.pending = [s and Signal(s.loss, s.grads, [], s.bound, s.bad) for s in self.state.pending]
        self.state.middle = True
        self.clean, self.replay = self.state.copy(), 0
        self.state.middle = False

    def resume(self, clean: RunState, replay: int, budget: Budget) -> None:
        """Go to the state that a checkpoint holds: its last clean moment, and ``replay`` steps from there."""
        from .state import set_global_rng

        self.clean, self.state = clean, tree.snapshot(clean)
        set_global_rng(clean.rng)
        for name in self.graph.slots:
            self.leaves(self.state, name)
        self.sink, sink = None, self.sink
        self.replay = 0
        for _ in range(replay):
            self.step()
        self.sink, self.budget = sink, budget

    # record

    def log(self, state: RunState, number: int, values: dict[str, Any]) -> None:
        """Add a point to the record: of level ``number`` counted from 1, or of the task (0)."""
        state.log.append((number, state.step, values))

    def hand_on(self, state: RunState) -> None:
        """Give the record so far to the sink: nothing will take it back."""
        if self.sink:
            for point in state.log:
                self.sink(*point)
        state.log = []
