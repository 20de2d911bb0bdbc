"""The examination of windows: whether they are long enough, and whether an exact unroll of them can be trusted.

Now and then a level that asks for it (``examine``) has its next window run twice from the same state, on the same
batches: as long as it is, and twice as long. Two hypergradients that point the same way say that what a longer window
would tell is told by this one already; others that it is short-sighted (its bias: Wu et al. 2018, 1803.02021).
Over strategies that move the task, the spectral radius of the step that the window unrolls is recorded too. The run
then goes on from where it was; what was spent is charged to the level.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from ..checking.errors import RecoptError
from ..contracts import trees
from ..core.tower import Tower
from ..levels.level import BILEVEL, TASK
from ..levels.state import Numbers, RunState
from ..search.begins import Home
from .budget import Budget
from .family import Family
from .radius import PRODUCTS, radius
from .source import Source
from .surroundings import Surroundings

_PATIENCE = 4
"""A window that is not full after this multiple of its steps (the guard refuses them) is left."""


class Run(Home, Protocol):
    """A run that can go back, and what it has spent."""

    budget: Budget


class Examiner:
    """Examines the windows of a tower's levels.

    Attributes:
        numbers: the levels that ask for it.
        at_work: whether what happens now will be taken back.
    """

    def __init__(self, tower: Tower, family: Family, source: Source, surroundings: Surroundings, run: Run) -> None:
        self.tower, self.family, self.source, self.surroundings, self.run = tower, family, source, surroundings, run
        self.graph, self.levels = tower.graph, tower.graph.levels
        self.numbers, self.at_work = tower.graph.paces.examined, False
        if self.numbers and tower.setting.ranks:
            raise RecoptError("Windows are not examined under torchrun: leave 'examine' out.")
        self._plain = not {level.moves for level in self.levels} & set(BILEVEL)

    def made(self) -> list[int]:
        """The steps so far of the levels in ``numbers``."""
        return [self.run.state.levels[n].steps for n in self.numbers]

    def look(self, before: Sequence[int]) -> None:
        """Examine the windows of levels that have stepped since they had made ``before``, where that is due."""
        for number, was, now in zip(self.numbers, before, self.made(), strict=True):
            if now == was + 1 and not now % (self.levels[number].examine or 1):
                self._examine(number)

    def _examine(self, number: int) -> None:
        run, begin = self.run, time.perf_counter()
        spent = [replace(one) for one in run.budget.levels]
        quiet, self.surroundings.quiet, self.at_work = self.surroundings.quiet, True, True
        here = run.copy()
        every = self.graph.paces.every(here, number)
        values = self._radius(here, number, every)
        signals = []
        for length in (every, 2 * every):
            run.go(here)
            signals.append(self._signal(number, length))
        run.go(here)
        self.surroundings.quiet, self.at_work = quiet, False
        found = [signal for signal in signals if signal is not None]
        if len(found) == 2:
            values["window_agreement"] = float(torch.cosine_similarity(found[0], found[1], dim=0))
        self.surroundings.log(self.run.state, number, {"window": every, **values})
        now, run.budget.levels = run.budget.levels, spent
        for key in ("loss", "gradient", "products", "hypergradient"):
            cost = sum(getattr(after, key) - getattr(was, key) for after, was in zip(now, spent, strict=True))
            run.budget.spend(number, **{key: cost})
        seconds = time.perf_counter() - begin
        run.budget.spend(number, products=PRODUCTS if "radius" in values else 0, seconds=seconds)

    def _radius(self, state: RunState, number: int, every: int) -> dict[str, Any]:
        """The spectral radius of the step that the level's windows unroll, where that is one of the task."""
        movers = self.graph.subjects[number]
        if not self._plain or movers != self.graph.movers[TASK]:
            return {}
        return {"radius": radius(self.tower, self.family, self.source, state, movers)}

    def _signal(self, number: int, every: int) -> torch.Tensor | None:
        """The hypergradient of the level's next window, of ``every`` steps; None if it says nothing."""
        self.pace(self.run.state, number, every)
        for _ in range(_PATIENCE * every * self.graph.evaluations(self.graph.clock(number)) + 1):
            tapes = self.tower.windows.tapes
            tapes.foresee(self.run.state)
            found = self.source.evaluate(self.run.state, tapes.graph_needed(self.run.state))
            top = self.tower.up(self.run.state, found)
            signal = self.run.state.pending[number]
            if signal is not None:
                there = [torch.as_tensor(g, dtype=torch.float64).reshape(-1) for g in signal.grads or []]
                return None if signal.void or not there else trees.detach(torch.cat(there))
            self.tower.down(self.run.state, top, found)
        return None

    def pace(self, state: RunState, number: int, every: int) -> None:
        """Set the length of the windows of level ``number``."""
        name = self.levels[number].by
        slot, place = state.slots[name], self.graph.paces.places[number]
        if isinstance(slot, Numbers):
            self.tower.carriers.spaces[name].put(slot, [place], [math.log(every)])
        else:
            slot.params[place] = torch.full_like(slot.params[place], math.log(every))
            slot.version += 1
