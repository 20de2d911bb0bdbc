"""The engine: evaluates the task, sends signals up the levels, then steps them from the top down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..contracts import trees
from ..contracts.task import Task
from ..core.graph import Graph
from ..core.level import TASK
from ..core.seeds import mix
from ..core.state import RunState, Signal
from .budget import Budget
from .episodes import Episodes
from .evaluate import Evaluator
from .family import Family
from .imitation import Teacher
from .moves import Mover
from .randomness import Stream, seeded
from .search import Searcher
from .signals import Collector
from .slots import Slots
from .source import Source
from .truncation import Truncation
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

    Its parts share one state of the run and keep none that outlasts a step: ``family`` and ``slots`` (what is moved),
    ``evaluator`` and ``source`` (the task's signals), ``collector`` and ``truncation`` (the way up), ``mover``,
    ``episodes`` and ``teacher`` (the way down), ``searcher`` (trials), ``watcher`` (guards) and ``stream`` (what models
    draw at random).
    """

    def __init__(
        self, task: Task, graph: Graph, *, seed: int = 0, tasks: int = 1, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32, sink: Sink | None = None, each: bool = False,
    ) -> None:  # fmt: skip
        self.each = each
        self.graph, self.levels, self.sink, self.tasks, self.seed = graph, graph.levels, sink, tasks, seed
        self.device, self.dtype = torch.device(device), dtype
        self.family = Family(task, tasks, seed, self.device, dtype)
        graph.check_task(self.family.drawn(0).names)
        self.slots, self.evaluator = Slots(graph, self.family), Evaluator(self.family)
        self.budget = Budget(len(self.levels))
        self.source, self.collector, self.truncation = Source(self), Collector(self), Truncation(self)
        self.mover, self.episodes, self.searcher = Mover(self), Episodes(self), Searcher(self)
        self.watcher, self.teacher = Watcher(self), Teacher(self)
        self.stream = Stream(self)
        with seeded(mix(seed, 1), self.device):
            self.state = self.stream.copy(self.slots.first())
        self.clean, self.replay = trees.snapshot(self.state), 0

    # time

    def run(self, steps: int) -> None:
        """Step until ``steps`` updates of the task are done.

        A search that is open then stays open: :meth:`hand_on` gives the record of its trial so far, and
        :func:`recopt.engine.measure.settled` the state that it would go back to.
        """
        while self.state.step < steps:
            self.step()

    def step(self) -> None:
        """One evaluation of the task, and all that follows from it."""
        with self.stream:
            self._step()

    def _step(self) -> None:
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
        self.truncation.foresee(self.state)
        self.source.signal(self.state)
        for number, level in enumerate(self.levels):
            if level.moves == TASK or not self.collector.collect(self.state, number):
                continue
            if level.taping:
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
        self.clean, self.replay = self.stream.copy(self.state), 0
        self.state.middle = False

    def go(self, to: RunState) -> None:
        """Make a copy of ``to`` the run's state."""
        self.state = trees.snapshot(to)
        self.stream.go(to)
        self.source.held_out = None
        for name in self.graph.slots:
            self.slots.leaves(self.state, name)

    def resume(self, clean: RunState, replay: int, budget: Budget) -> None:
        """Go to the state that a checkpoint holds: its last clean moment, and ``replay`` steps from there."""
        self.clean, self.replay = clean, 0
        with self.stream:
            self.go(clean)
        self.sink, sink = None, self.sink
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
