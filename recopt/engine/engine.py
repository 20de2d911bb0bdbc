"""The engine: evaluates the task again and again, and lets a tower do with it what it does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..contracts import trees
from ..contracts.task import Task
from ..core.carriers import Setting
from ..core.evaluation import Evaluation
from ..core.forward import stamp
from ..core.tower import Tower
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.seeds import mix
from ..levels.state import RunState
from ..ranks.shared import ONE, Ranks
from ..rules.coordinates import widened
from ..search.trials import Trials, untaped
from .budget import Budget
from .copies import Copies
from .episodes import Episodes
from .evaluate import Evaluator
from .examine import Examiner
from .family import Family
from .imitation import Imitation
from .init_slot import begin, pulled, reconnect, started, taped
from .landing import land, lands
from .loss_reach import bound
from .population import Population
from .randomness import Stream, seeded
from .segments import Segments
from .shares import check_draws, common
from .source import Source
from .stagger import Stagger
from .surroundings import Surroundings

Sink = Callable[[int, int, Mapping[str, Any]], None]
STRETCH = 20
"""Steps of a run between which torch's random numbers stay lent, and after which the record is handed on."""
REPLAY = 100
"""Steps between two of the moments from which a checkpoint can be replayed, at least."""
LOG = 200
"""Points of the record after which several processes make it common."""


class Engine:
    """A graph at work on a task.

    Args:
        task: the task, or the family that tasks are sampled from.
        graph: the levels, checked.
        seed: of everything random in the run.
        tasks: how many tasks are trained side by side.
        sink: called with (level, step, values) for every point of the record; level 0 is the task.
        each: whether the task's points also hold the loss of each task, under ``losses``.
        ranks: the processes among which the tasks are divided.

    Attributes:
        state: everything the run is; the parts keep nothing that outlasts a step.
        tower: the levels; ``trials`` of its zero-order levels.
        source: the task's evaluations, by ``evaluator``.
        stream: what models draw at random.
        budget: what was spent.
        examiner: of windows.
        clean, replay: the last moment at which no tape was open, and the steps since.
    """

    state: RunState
    surroundings: Surroundings
    returns = True
    """A run can go back to an earlier state."""

    def __init__(
        self, task: Task, graph: Graph, *, seed: int = 0, tasks: int = 1, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32, sink: Sink | None = None, each: bool = False, ranks: Ranks = ONE,
    ) -> None:  # fmt: skip
        self.levels, self.sink, self.tasks, self.seed = graph.levels, sink, tasks, seed
        self.device, self.dtype, self.ranks = torch.device(device), dtype, ranks
        self.family = Family(task, tasks, seed, self.device, dtype, ranks.share(tasks))
        graph.check_task(self.family.drawn(0).names)
        with seeded(seed, self.device):
            model, first = self.family.module(0), self.family.drawn(0).tasks[0]
            graph = widened(graph, [p for p in model.parameters() if p.requires_grad])
            self.graph = graph = bound(started(graph, model), first, self.family.module(0), self.family.place)
        self.budget = Budget(len(self.levels))
        self.tower = self._tower()
        ends = lambda state, number: self.surroundings.episodes.close(state, number)  # noqa: E731, PLW0108
        reads = any(graph.order(n) for n in graph.movers[TASK])
        self.evaluator = Evaluator(self.family, bool(self.tower.carriers.exact) or taped(graph) or lands(graph), reads)
        copies = Copies(self.evaluator, reads)
        self.population = Population(self.tower, copies, lambda: self.budget, each)
        self.trials = Trials(
            self.tower, self, closed=ends, weight=self.imitation.weight, together=self.population
        )  # fmt: skip
        self.tower.search_with(self.trials)
        self.source = Source(
            self.evaluator, copies, lambda: self.budget, home=lambda: self.state, index=self.tower.slots.index,
            payer=self.trials.payer, log=lambda state, values: self.surroundings.log(state, -1, values),
            gradients=reads, pairs=bool(self.tower.carriers.exact), each=each, pull=partial(pulled, graph),
        )  # fmt: skip
        stagger = Stagger(self.tower, self.family, self.source, self.imitation)
        self.surroundings.episodes = Episodes(self.tower, self.family, stagger, self.surroundings.log)
        self.stream = Stream(self.device, lambda: self.state)
        self.examiner = Examiner(self.tower, self.family, self.source, self.surroundings, self)
        self.segments = Segments(self.tower, self.source, self, self.stream)
        with seeded(mix(seed, 1), self.device):
            self.state = self.tower.beginnings.first(self.family.fresh(0))
            begin(graph, self.state, self.family.drawn(0).names, self.tower.setting.tasks)
            self.state.rng = self.stream.place()
        if ranks.rank:
            self.state.rng = self.stream.of(mix(seed, 1, ranks.rank))
        self.clean, self.replay = copied(self.state), 0

    def _tower(self) -> Tower:
        graph, device, dtype = self.graph, self.device, self.dtype
        count = self.family.count if self.family.batched else 0
        self.imitation = Imitation(graph, count, self.seed)

        def charge(state: RunState, number: int, hypergradient: int = 1) -> None:
            products = self.evaluator.products.take() * self.family.count
            if self.ranks and self.evaluator.exact:
                products = round(self.ranks.totals([products])[0])
            payer = self.trials.payer(state) or number
            self.budget.spend(payer, hypergradient=hypergradient, products=products)

        def names(state: RunState) -> list[str]:
            return self.family.drawn(state.slots[TASK].draw).names

        def searching(state: RunState) -> bool:
            return self.examiner.at_work or self.trials.active(state)

        heard = lambda: self.sink is not None  # noqa: E731
        closing = lambda state, number, how: replace(  # noqa: E731
            how, landing=partial(land, self.source, graph, state, number), told=state.levels[number].carried,
            stretches=partial(self.segments.stretches, state, number),
            log=partial(self.surroundings.log, state, number),
        )  # fmt: skip
        self.surroundings = Surroundings(
            graph, self.imitation, charge, closing=closing, heard=heard, ranks=self.ranks
        )  # fmt: skip
        in_place = not count and not any(level.second_order for level in self.levels) and not taped(graph)
        setting = Setting(tasks=count, ranks=self.ranks, in_place=in_place, device=device, dtype=dtype, seed=self.seed)
        tower = Tower(
            graph, setting, names, around=self.surroundings, teaching=self.imitation, searching=searching
        )  # fmt: skip
        for name, strategy in graph.slots.items():
            if name in tower.carriers.spaces:
                strategy.to(device)
            else:
                strategy.to(device, dtype)
        return tower

    # time

    def run(self, steps: int) -> None:
        """Step until ``steps`` updates of the task are done.

        A search that is open then stays open: :meth:`flush` gives the record of its trial so far, and
        :func:`recopt.engine.measure.settled` the state that it would go back to.
        """
        while self.state.step < steps:
            self.step(STRETCH, steps)

    def step(self, count: int = 1, end: float = math.inf) -> None:
        """An evaluation of the task, and all that follows from it.

        Args:
            count: so many of them before the record is handed on.
            end: updates of the task after which there is none.
        """
        with self.stream:
            for _ in range(count):
                if self.state.step >= end:
                    break
                begin, aside = time.perf_counter(), self.population.seconds
                made = self.examiner.made()
                if self.state.middle:
                    self.state.middle = False
                    top, found = len(self.levels), self.source.around(Evaluation(None))
                else:
                    top, found = self._up()
                payer = self.trials.payer(self.state)
                self.tower.down(self.state, top, found)
                for number in self.tower.windows.carried.numbers[:1]:
                    self.surroundings.charge(self.state, number, 0)
                self.segments.mark()
                self.replay += 1
                self.budget.spend(payer, seconds=time.perf_counter() - begin - (self.population.seconds - aside))
                self.examiner.look(made)
        if not self.ranks or len(self.state.log) >= LOG:
            self.keep_up()

    def _up(self) -> tuple[int, Evaluation]:
        """Evaluate and send signals up; the number of levels that may now step, counted from the innermost."""
        tapes, state = self.tower.windows.tapes, self.state
        tapes.foresee(state)
        found = self.source.evaluate(state, tapes.graph_needed(state))
        top = self.tower.up(state, found)
        if top == len(self.levels):
            self._mark()
        return top, found

    def _mark(self) -> None:
        """Remember this moment, from which everything can be replayed, if no tape is open."""
        if self.replay < REPLAY or not untaped(self.tower, self.state):
            return
        pending = self.state.pending
        self.state.pending = [s and replace(s, pairs=[]) for s in pending]
        self.state.middle = True
        self.clean, self.replay = self.copy(), 0
        self.state.middle = False

    # going back

    def copy(self) -> RunState:
        """A copy of the present state, with where the random stream is."""
        out = copied(self.state)
        out.rng = self.stream.place()
        return out

    def go(self, to: RunState) -> None:
        """Make a copy of ``to`` the run's state."""
        self.state = copied(to)
        self.stream.go(to.rng)
        for name in self.graph.slots:
            self.tower.slots.leaves(self.state.slots[name], name)
        reconnect(self.graph, self.state, self.tower.setting.tasks)
        self.evaluator.bind(self.state.task)
        for number, own in enumerate(self.state.levels):
            if own.live and self.levels[number].moves == TASK:
                own.stamp = stamp(self.tower.slots.point(self.state, number))

    def resume(self, clean: RunState, replay: int, budget: Budget) -> None:
        """Go to the state that a checkpoint holds: its last clean moment, and ``replay`` steps from there."""
        self.clean, self.replay = clean, 0
        with self.stream:
            self.go(clean)
        self.sink, sink = None, self.sink
        self.surroundings.quiet = True
        self.step(replay)
        self.keep_up()
        self.surroundings.quiet = False
        self.sink, self.budget = sink, budget

    # record

    def keep_up(self) -> None:
        """Give the record so far to the sink, unless it may yet be taken back."""
        if not self.trials.active(self.state):
            self.flush()

    def flush(self) -> None:
        """Give the record so far to the sink: nothing will take it back."""
        if self.sink:
            if self.ranks and self.state.log:
                check_draws(self.state, self.graph, self.tower.carriers.draws, self.seed)
                self.state.log = common(self.state, self.ranks)
            for point in self.state.log:
                self.sink(*point)
        self.state.log = []


def copied(state: RunState) -> RunState:
    """A copy that no step in place reaches; tensors on a tape are shared."""
    return trees.tree_map(lambda t: t if t.requires_grad else t.clone(), state)
