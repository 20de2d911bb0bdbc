"""The examination of windows: whether they are long enough, and whether an exact unroll of them can be trusted.

Now and then a level that asks for it (``examine``) has its next window run twice from the same state, on the same
batches: as long as it is, and twice as long. Two hypergradients that point the same way say that what a longer window
would tell is told by this one already; others that it is short-sighted (its bias: Wu et al. 2018, 1803.02021).
Over strategies that move the task, the spectral radius of the step that the window unrolls is recorded too. The run
then goes on from where it was; what was spent is charged to the level.

With ``every: auto`` the window is also compared with one of half its length, and its length is doubled, halved or kept
(:mod:`.window_length`). Where nothing else is asked for, examinations become rarer the longer a length has held.
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
from torch import Tensor

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
from .window_length import FIRST, LEAST, MOST, pause, pointing, worth

_PATIENCE = 4
"""A window that is not full after this multiple of its steps (the guard refuses them) is left."""


_GROWTH = 10.0
"""What an exact unroll may stretch a change by over a window."""
_SEEN, _SINCE, _DUE = "examined", "since", "due"
"""The keys of the last directions that a level's windows had, of its steps when its length was last chosen, and of
those when the next examination is due."""


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
            if now == was + 1 and self._due(number, now):
                self._examine(number)

    def _due(self, number: int, made: int) -> bool:
        """True if level ``number`` is to be examined after ``made`` steps."""
        asked = self.levels[number].examine
        return made % asked == 0 if asked else made >= self.run.state.levels[number].carried.get(_DUE, FIRST)

    def _examine(self, number: int) -> None:
        run, begin = self.run, time.perf_counter()
        spent = [replace(one) for one in run.budget.levels]
        quiet, self.surroundings.quiet, self.at_work = self.surroundings.quiet, True, True
        here = run.copy()
        every = self.graph.paces.every(here, number)
        values, chooses = self._radius(here, number), self.levels[number].longest is not None
        found = []
        for length, count in self._lengths(number, every).items():
            run.go(here)
            found.append(self._signals(number, length, count))
        run.go(here)
        self.surroundings.quiet, self.at_work = quiet, False
        for one, twice in pairwise(found[every > 1 and chooses :]):
            if one and twice:
                values["window_agreement"] = float(torch.cosine_similarity(one[0], twice[0], dim=0))
        self.surroundings.log(run.state, number, {"window": every, **values})
        if chooses:
            self._choose(number, every, found, values.get("radius", 0.0))
        now, run.budget.levels = run.budget.levels, spent
        for key in ("loss", "gradient", "products", "hypergradient"):
            cost = sum(getattr(after, key) - getattr(was, key) for after, was in zip(now, spent, strict=True))
            run.budget.spend(number, **{key: cost})
        seconds = time.perf_counter() - begin
        run.budget.spend(number, products=PRODUCTS if "radius" in values else 0, seconds=seconds)

    def _lengths(self, number: int, every: int) -> dict[int, int]:
        """The lengths of the windows to compare, ascending, with how many of each follow each other."""
        level = self.levels[number]
        if level.longest is None:
            return {every: 1, 2 * every: 1}
        fits = 2 * every <= level.longest and (level.episode or 2 * every) % (2 * every) == 0
        return ({every // 2: 2} if every > 1 else {}) | {every: 2} | ({2 * every: 1} if fits else {})

    def _choose(self, number: int, every: int, found: Sequence[list[Tensor]], step: float) -> None:
        """Double, halve or keep the length of a level's windows, ``every``, once it was examined often enough.

        Args:
            found: the hypergradients of the windows of :meth:`_lengths`; none where those said nothing.
            step: the spectral radius of a step, or 0.
        """
        own = self.run.state.levels[number]
        own.carried[_DUE] = own.steps + pause(own.steps - own.carried.get(_SINCE, 0))
        if not all(found):
            return
        seen = own.carried[_SEEN] = [*own.carried.get(_SEEN, []), [*map(pointing, found), torch.tensor(step)]][-MOST:]
        if len(seen) < LEAST:
            return
        *ways, steps = map(torch.stack, zip(*seen, strict=True))
        mean = float(steps.mean())
        far = math.log(_GROWTH) / math.log(mean) if mean > 1 else math.inf  # the steps that stretch as much as they may
        lengths = [*self._lengths(number, every)]
        shorter = worth(ways[0], ways[1][:, :1]) if every > 1 else None
        longer = worth(ways[-2], ways[-1]) if lengths[-1] == 2 * every <= far else None
        if every > 1 and far < every:
            chosen, why = every // 2, f"more than {far:.0f} steps stretch a change over {_GROWTH:.0f} times"
        elif longer and longer.long:
            chosen, why = 2 * every, f"a window of {2 * every} steps leads farther than two of {every} ({longer})"
        elif shorter and shorter.short:
            chosen, why = every // 2, f"two windows of {every // 2} steps lead farther than one of {every} ({shorter})"
        else:
            return
        own.carried |= {_SEEN: [], _SINCE: own.steps, _DUE: own.steps + FIRST}
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

    def _signals(self, number: int, every: int, count: int) -> list[Tensor]:
        """The hypergradients of the level's next ``count`` windows, of ``every`` steps; none if one says nothing."""
        self.pace(self.run.state, number, every)
        found = list[Tensor]()
        for _ in range(_PATIENCE * count * every * self.graph.evaluations(self.graph.clock(number)) + 1):
            tapes = self.tower.windows.tapes
            tapes.foresee(self.run.state)
            evaluated = self.source.evaluate(self.run.state, tapes.graph_needed(self.run.state))
            top = self.tower.up(self.run.state, evaluated)
            signal, self.run.state.pending[number] = self.run.state.pending[number], None  # the level stays where it is
            if signal is not None:
                there = [torch.as_tensor(g, dtype=torch.float64).reshape(-1) for g in signal.grads or []]
                if signal.void or not there:
                    return []
                found.append(trees.detach(torch.cat(there)))
            if len(found) == count:
                return found
            self.tower.down(self.run.state, top, evaluated)
        return []

    def pace(self, state: RunState, number: int, every: int) -> None:
        """Set the length of the windows of level ``number``."""
        name = self.levels[number].by
        slot, place = state.slots[name], self.graph.paces.places[number]
        if isinstance(slot, Numbers):
            self.tower.carriers.spaces[name].put(slot, [place], [math.log(every)])
        else:
            slot.params[place] = torch.full_like(slot.params[place], math.log(every))
            slot.version += 1
