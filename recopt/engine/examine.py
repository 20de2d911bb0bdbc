"""The examination of windows: whether they are long enough, and whether an exact unroll of them can be trusted.

Now and then a level that asks for it (``examine``) has its next window run twice from the same state, on the same
batches: as long as it is, and twice as long. Two hypergradients that point the same way say that what a longer window
would tell is told by this one already; others that it is short-sighted (its bias: Wu et al. 2018, 1803.02021).
Over strategies that move the task, the spectral radius of the step that the window unrolls is recorded too. The run
then goes on from where it was; what was spent is charged to the level.

With ``every: auto`` the window is also compared with one of half its length, and after three examinations its length is
doubled, halved or kept.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import torch

from ..checking.errors import Notice, RecoptError
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


_TURNS = 3
"""Examinations before a length is chosen."""
_APART, _ALIKE = 0.5, 0.9
"""Mean cosines: below the first a longer window says another thing, above the second a shorter one the same."""
_GROWTH = 10.0
"""What an exact unroll may stretch a change by over a window."""
_SEEN = "examined"
"""The key of a level's examinations since its length was last chosen."""


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
        values, chooses = self._radius(here, number), self.levels[number].longest is not None
        signals = []
        for length in ([max(1, every // 2)] if chooses else []) + [every, 2 * every]:
            run.go(here)
            signals.append(self._signal(number, length))
        run.go(here)
        self.surroundings.quiet, self.at_work = quiet, False
        found = [signal for signal in signals if signal is not None]
        if len(found) == len(signals):
            cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairwise(found)]
            values["window_agreement"] = cosines[-1]
        self.surroundings.log(run.state, number, {"window": every, **values})
        if chooses and len(found) == len(signals):
            run.state.levels[number].carried.setdefault(_SEEN, []).append([*cosines, values.get("radius", 0.0)])
            self._choose(number, every)
        now, run.budget.levels = run.budget.levels, spent
        for key in ("loss", "gradient", "products", "hypergradient"):
            cost = sum(getattr(after, key) - getattr(was, key) for after, was in zip(now, spent, strict=True))
            run.budget.spend(number, **{key: cost})
        seconds = time.perf_counter() - begin
        run.budget.spend(number, products=PRODUCTS if "radius" in values else 0, seconds=seconds)

    def _choose(self, number: int, every: int) -> None:
        """Double, halve or keep the length of a level's windows, ``every``, once it was examined often enough."""
        own, level = self.run.state.levels[number], self.levels[number]
        if len(own.carried[_SEEN]) < _TURNS:
            return
        shorter, longer, step = (sum(column) / _TURNS for column in zip(*own.carried.pop(_SEEN), strict=True))
        longest, whole = level.longest or every, level.episode or 2 * every
        far = math.log(_GROWTH) / math.log(step) if step > 1 else math.inf  # the steps that stretch as much as they may
        fits = 2 * every <= min(longest, far) and whole % (2 * every) == 0
        if every > 1 and far < every:
            chosen, why = every // 2, f"more than {far:.0f} steps stretch a change over {_GROWTH:.0f} times"
        elif longer < _APART and fits:
            chosen, why = 2 * every, f"windows of {every} and {2 * every} steps disagree (mean cosine {longer:.2f})"
        elif every > 1 and shorter > _ALIKE:
            chosen, why = every // 2, f"windows of {every // 2} steps say the same (mean cosine {shorter:.2f})"
        else:
            return
        self.pace(self.run.state, number, chosen)
        if not self.surroundings.quiet:
            title, at = self.graph.title(number).removeprefix("level"), self.run.state.step
            warnings.warn(Notice(f"Level{title}: every is {chosen} from step {at:,} on, since {why}."), stacklevel=2)

    def _radius(self, state: RunState, number: int) -> dict[str, Any]:
        """The spectral radius of the step that the level's windows unroll, where that is one of the task."""
        movers = self.graph.subjects[number]
        level = self.levels[number]
        if (level.longest and not level.second_order) or not self._plain or movers != self.graph.movers[TASK]:
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
