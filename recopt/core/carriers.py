"""The carrier of each level: numbers, columns in place, or tensors with a tape; chosen once, from the graph alone.

A strategy is asked by its own ``forward`` on tensors, under a tape, wherever nothing better is known. A rule that is
written over :mod:`recopt.rules.ops` works on floats where it moves hyperparameters of others, and in place where it
moves a model, as long as the derivatives that levels above ask for have a closed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..contracts.domains import Positive
from ..levels.carried import carries
from ..levels.graph import Graph
from ..levels.level import COSINES, TASK, Level, is_plain
from ..levels.registry import ESTIMATORS, TRANSFORMS
from ..levels.state import RunState, Signal
from ..levels.transforms import Transform
from ..ranks.shared import ONE, Ranks
from ..rules.columns import ColumnMover
from ..rules.coordinates import wide
from ..rules.numbers import NumberMover, NumberSpace, made_of_numbers, reads
from ..rules.rule import text_of
from ..rules.tensors import TensorMover

Mover = ColumnMover | NumberMover | TensorMover
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """The setting of a tower, given by its driver.

    Attributes:
        tasks: the leading dimension of the task's tensors, of tasks side by side; 0 if there is none.
        rows: whether the parameters of strategies have it too, each task its own.
        ranks: the processes among which the tasks are divided.
        in_place: whether the task's tensors are moved where they are, and nobody differentiates through them.
        closed: whether closed forms are used; False asks every strategy by its ``forward``.
        device, dtype: of strategies that are networks.
        seed: of what strategies draw.
        remake: whether records keep what they can be made anew from, where a state is saved with its tapes open.
    """

    tasks: int = 0
    rows: bool = False
    ranks: Ranks = ONE
    in_place: bool = True
    closed: bool = True
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    seed: int = 0
    remake: bool = False


class Place(NamedTuple):
    """The lookups of a level that moves numbers by a rule.

    Attributes:
        indices: of what the level moves, in its slot.
        bounded: those of ``indices``, by their places there, whose domains have bounds.
        noted: whether the windows of a level above are told of its updates.
    """

    number: int
    level: Level
    mover: NumberMover
    space: NumberSpace
    indices: list[int]
    bounded: list[int]
    normalize: Transform
    noted: bool

    def slopes(self, state: RunState, signal: Signal) -> list[float] | None:
        """The derivative, by its strategy's coordinates, of the loss that came after; None: nothing is recorded."""
        numbers: Any = state.slots[self.level.by]
        return self.mover.slopes(state.levels[self.number].parts[0], signal.grads or [], numbers)


class Carriers:
    """The movers of a graph's levels, and how each level above is told.

    Attributes:
        spaces: by slot, its coordinates, where it is made of numbers.
        movers: by level.
        every: by level, the longest of its windows, in steps of the level below.
        windows: by level, its updates between two steps of the first-order levels above; 0 if there are none.
        rates: by level, the place of the learning rate among its strategy's coordinates, where a level above tunes
            it as a logarithm by what is not estimated: that is the derivative of whole updates.
        lean: by level, whether its window is one update, and its signal the closed derivative of that as it is.
        closed: by level, whether its signal has a closed form, or is carried along: no tape is open between steps.
        taped: by level, whether a tape runs over its updates.
        draws: by level, whether it draws random numbers.
        places: by level, what those look up that move numbers by a rule.
        columns: by level, the movers of those that move the task in place without a tape.
        descents: the levels that move the task by gradients.
        wide: by level, whether its strategy has numbers for each coordinate, so that each tensor is a part of its own.
        guarded: whether a level of the task is.
        tasks: by level, how many points it moves side by side; 0 for one without a leading dimension.
    """

    def __init__(self, graph: Graph, setting: Setting) -> None:
        self.graph, self.setting, self.levels = graph, setting, graph.levels
        self.wide = [wide(graph, n) for n in range(len(graph.levels))]
        self.exact = [n for n, level in enumerate(self.levels) if level.second_order]
        numbers = {} if self.exact or setting.rows else graph.slots
        self.spaces = {name: NumberSpace(s) for name, s in numbers.items() if made_of_numbers(s)}
        everywhere = range(len(self.levels))
        self.above = [[n for n in graph.above[m] if self.levels[n].taping] for m in everywhere]
        self.every = [graph.paces.longest(n) for n in everywhere]
        self.windows = [max((self.every[n] for n in self.above[m]), default=0) for m in everywhere]
        self.moved = {x: self._moved(x, [n for n in graph.movers[x] if self.levels[n].taping]) for x in graph.slots}
        shut = {name: self._has_closed_form(name) for name in graph.slots}
        self.closed = [x.moves != TASK and x.taping and (carries(x) or shut[x.moves]) for x in self.levels]
        self.lean = [self.closed[n] and self.every[n] == 1 and is_plain(x) for n, x in enumerate(self.levels)]
        within = {m for n in self.exact for m in graph.within(n)}
        self.taped = [m in within or any(not self.closed[n] for n in self.above[m]) for m in everywhere]
        self.movers = [self._mover(m, shut[self.levels[m].by]) for m in everywhere]
        self.rates = [self._rate(m) for m in everywhere]
        self.draws = [x.perturbs or not (x.gradient != "value" and graph.slots[x.by].vectorize) for x in self.levels]
        self.places = {m: self._place(m, x) for m, x in enumerate(self.movers) if isinstance(x, NumberMover)}
        self.columns = {m: x for m, x in enumerate(self.movers) if isinstance(x, ColumnMover)}
        self.descents = [m for m in graph.movers[TASK] if graph.order(m)]
        self.guarded = any(self.levels[m].guard for m in graph.movers[TASK])
        self.tasks = [setting.tasks if level.moves == TASK else 0 for level in self.levels]

    def _moved(self, name: str, levels: Iterable[int]) -> frozenset[str]:
        """The parameters of a strategy that ``levels`` above it move."""
        names = self.graph.names[name]
        return frozenset(names[i] for n in levels for i in self.graph.moved(n, names))

    def _has_closed_form(self, name: str) -> bool:
        """True if levels above can be told of a strategy's updates without a tape."""
        rule = text_of(self.graph.slots[name])
        if rule is None or name not in self.spaces or not self.setting.closed:
            return False
        by = [m for m, level in enumerate(self.levels) if level.by == name]
        every = {self.every[n] for m in by for n in self.above[m]}
        above = [self.levels[n] for n in sorted({n for m in by for n in self.above[m]})]
        placed = all(self._closed_place(self.levels[m]) for m in by)
        known = all(ESTIMATORS[x.gradient or ""].closed for x in above) and len({x.on for x in above}) <= 1
        told = [self.levels[n] for m in by for n in self.graph.above[m]]  # searches too
        more = any(x.teacher or x.penalty_update for x in told) or any(x.penalty_moved for x in above)
        trusted = bool(above) and any(self.levels[m].trust is not None for m in by)
        if not placed or not known or more or trusted or len(every) > 1:
            return False
        measured = any(x.normalize in COSINES for x in above)
        if every <= {1}:
            return not measured or all(map(is_plain, above))
        far = bool(self.moved[name] - {rule.linear}) or reads(rule).point
        return not far and not measured

    def _closed_place(self, level: Level) -> bool:
        if level.moves != TASK:
            return level.moves in self.spaces
        return self.setting.in_place and not self.setting.tasks and not level.null_step

    def _mover(self, m: int, closed: bool) -> Mover:
        level = self.levels[m]
        strategy = self.graph.slots[level.by]
        rule = text_of(strategy)
        if not closed or rule is None:
            return TensorMover(strategy, self.setting.rows)
        kind = ColumnMover if level.moves == TASK else NumberMover
        return kind(rule, self.spaces[level.by], self.moved[level.by], self.windows[m])

    def _place(self, m: int, mover: NumberMover) -> Place:
        level = self.levels[m]
        space = self.spaces[level.moves]
        index = self.graph.moved(m, self.graph.names[level.moves])
        noted = not all(self.lean[n] for n in self.graph.above[m])
        return Place(m, level, mover, space, index, [k for k, i in enumerate(index) if space.bounded[i]],
                     TRANSFORMS[level.normalize or "none"], noted)  # fmt: skip

    def _rate(self, m: int) -> int | None:
        """The place of a level's rate, where it moves one task or numbers, and something above moves that."""
        level = self.levels[m]
        space = self.spaces.get(level.by)
        many = level.moves == TASK and self.setting.tasks > 0
        tuned = "lr" in self._moved(level.by, [n for n in self.graph.movers[level.by] if not self.levels[n].perturbs])
        if many or level.moves not in (TASK, *self.spaces) or space is None or not tuned:
            return None
        index = space.names.index("lr")
        return index if type(space.domains[index]) is Positive else None

    def cast(self, m: int) -> Any:
        """The dtype that a level's strategy computes in, where it is a network; None: that of what it moves."""
        return None if self.levels[m].by in self.spaces or self.exact else self.setting.dtype
