"""Paces: how often a level steps (``every``), as a hyperparameter that a zero-order level above may move.

``adam/hypergradient/annealing[every]``: a pattern that is just ``every`` gives the strategy beneath one more parameter
of that name, a whole number. Its values are those with which whole windows fit into one trial of the level that moves
it, so all trials take as many evaluations of the task. A trial begins where a window of the level beneath has closed.

A level whose windows are examined has a pace too, which takes them to twice their length and back, and to another
length where that is chosen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.domains import Domain
from ..contracts.settings import Hyper, declared
from ..contracts.strategy import Strategy
from .level import BILEVEL, TASK
from .state import Numbers, RunState
from .structure import Structure

EVERY = "every"


@dataclass(frozen=True)
class Divisor(Domain):
    """The divisors of ``whole``, moved as logarithms, then taken to the nearest one."""

    name: str = "divisor"
    whole: int = 1
    smooth: ClassVar[bool] = False

    @cached_property
    def numbers(self) -> list[int]:
        """All of them, ascending."""
        low = [n for n in range(1, math.isqrt(self.whole) + 1) if self.whole % n == 0]
        return sorted({*low, *(self.whole // n for n in low)})

    def natural(self, coordinate: Tensor) -> Tensor:
        known = torch.tensor(self.numbers, dtype=coordinate.dtype, device=coordinate.device)
        return known[(coordinate.detach().unsqueeze(-1) - known.log()).abs().argmin(-1)]

    def ends(self) -> tuple[float, float]:
        return 0.0, math.log(self.whole)

    def coordinate(self, value: Any) -> float:
        if value not in self.numbers:
            raise ValueError(f"a divisor of {self.whole:,}")
        return math.log(value)


class Paces:
    """The paces of the levels of a graph, of which some may be moved.

    Attributes:
        slots: those whose strategies have one.
        places: by level that has such a pace, its place among the parameters of its strategy.
        spans: by level that moves one, the steps of the level two beneath that its window holds.
        examined: the levels whose windows are examined.
    """

    def __init__(self, graph: Structure) -> None:
        self.graph, self.slots = graph, set[str]()
        self.places: dict[int, int] = {}
        self.spans: dict[int, int] = {}
        self.examined: list[int] = []

    def every(self, state: RunState, number: int) -> int:
        """The steps of the level below between two steps of level ``number`` (0-based), at present."""
        if number in self.spans:
            return self.spans[number] // self.every(state, self.graph.clock(number))
        name = self.graph.levels[number].by
        if number not in self.places:
            return self.graph.levels[number].every or 1
        slot = state.slots[name]
        if isinstance(slot, Numbers):
            return int(slot.value[EVERY])
        return int(self.graph.slots[name]._domains[EVERY].natural(slot.params[self.places[number]]))

    def movers(self, number: int) -> list[int]:
        """The levels that move the pace of level ``number``."""
        return [n for n in self.spans if number in self.graph.subjects[n]]

    def longest(self, number: int) -> int:
        """The most that :meth:`every` may be."""
        if number in self.places:
            return max(self._domain(number).numbers)
        return self.graph.levels[number].every or 1

    def _domain(self, number: int) -> Divisor:
        found = self.graph.slots[self.graph.levels[number].by]._domains[EVERY]
        assert isinstance(found, Divisor)
        return found

    def add(self, number: int) -> None:
        """Let level ``number`` (0-based) move the pace of the one beneath, if its patterns say so.

        Raises:
            RecoptError: if there is none that could be moved.
        """
        graph, level = self.graph, self.graph.levels[number]
        if level.episode and any(graph.levels[m].moves in self.slots for m in graph.below(number)):
            title = graph.title(number).removeprefix("level")
            raise RecoptError(
                f"Level{title}: its episodes would start '{EVERY}', which is moved, afresh: leave them out."
            )
        strategy = graph.slots.get(level.moves)
        if EVERY not in level.only or strategy is None or EVERY in declared(type(strategy), Hyper):
            return
        beneath = graph.subjects[number]
        why = _refusal(graph, number)
        if why:
            raise RecoptError(f"Level{graph.title(number).removeprefix('level')}: {why}")
        first = graph.levels[beneath[-1]]
        span = (level.every or 1) * (first.every or 1)
        domain = Divisor(whole=math.gcd(span, *(graph.levels[m].episode or span for m in beneath)))
        self._pace(level.moves, domain, beneath)
        self.spans[number] = span

    def examine(self, number: int) -> None:
        """Give level ``number`` (0-based) a pace that nothing moves, if its windows are to be examined.

        Raises:
            RecoptError: if they cannot be.
        """
        graph, level = self.graph, self.graph.levels[number]
        if level.examine is None and level.longest is None:
            return
        if why := _unexamined(graph, number):
            raise RecoptError(f"Level{graph.title(number).removeprefix('level')}: {why}")
        self._pace(level.by, Divisor(whole=2 * (level.longest or level.every or 1)), [number])
        graph.still(level.by, EVERY)
        self.examined.append(number)

    def _pace(self, slot: str, domain: Divisor, beneath: Sequence[int]) -> None:
        """Give the strategy in ``slot``, by which the levels ``beneath`` move, a pace."""
        graph, first = self.graph, self.graph.levels[beneath[-1]]
        made = graph.slots[slot] = paced(graph.slots[slot], domain, first.every or 1)
        graph.names[slot] = [name for name, _ in made.named_parameters()]
        self.slots.add(slot)
        for m in beneath:
            self.places[m] = graph.names[slot].index(EVERY)
            if graph.levels[m].gradient == "online":  # which is the unroll of length 1
                graph.levels[m] = graph.levels[m].model_copy(update={"gradient": "unroll"})


def paced(strategy: Strategy, domain: Divisor, every: int) -> Strategy:
    """A copy of ``strategy`` with a pace."""
    made = copy.deepcopy(strategy)
    if every not in domain.numbers:
        every = min(domain.numbers, key=lambda n: abs(math.log(n / every)))
    made._domains[EVERY] = domain
    made._parameters[EVERY] = nn.Parameter(torch.tensor(domain.coordinate(every), dtype=torch.float64))
    return made


def _refusal(graph: Structure, number: int) -> str | None:
    """The reason why level ``number`` cannot move the pace of what is beneath, and the remedy; None if it can."""
    level, beneath = graph.levels[number], [graph.levels[m] for m in graph.subjects[number]]
    upper = [x for n, x in enumerate(graph.levels) if x.moves != TASK and graph.order(n)]
    both, said = (level, *beneath), f"'{EVERY}' of '{level.moves}'"
    odd = next((one.objective for one in both if one.objective != "mean"), None)
    reasons = {
        f"'{level.moves}' moves the task, and steps at every evaluation: move the '{EVERY}' of a level above it.": any(
            one.moves == TASK for one in beneath
        ),
        f"{said} is a whole number, which has no gradient: move it by a zero-order strategy such as annealing.": bool(
            graph.order(number)
        ),
        f"{said} is not one number, as the levels by it step at different times: give them the same to begin with.": (
            len({one.every for one in beneath}) > 1
        ),
        f"trials of another {said} are compared by means of losses, not by objective={odd}: leave it out.": bool(odd),
        f"'curriculum' and 'stagger' are for windows of one length: leave them out, or {said} as it is.": any(
            one.curriculum or one.stagger for one in both
        ),
        "windows of exact levels have to fit into each other: set second_order=false.": (
            any(one.second_order for one in upper) and len(upper) > 1
        ),
    }
    return next((why for why, holds in reasons.items() if holds), None)


def _unexamined(graph: Structure, number: int) -> str | None:
    """The reason why the windows of level ``number`` cannot be examined, and the remedy; None if they can."""
    level = graph.levels[number]
    upper = [n for n, x in enumerate(graph.levels) if x.moves != TASK and graph.order(n)]
    beside = [n + 1 for n, x in enumerate(graph.levels) if x.tries and n != number and number not in graph.below(n)]
    one = f"leave '{'examine' if level.longest is None else 'every: auto'}' out."
    reasons = {
        f"it steps at every evaluation of the task, and has no windows: {one}": (level.moves == TASK),
        f"windows are compared by hypergradients, and gradient={level.gradient} has none of a window's own: {one}": (
            level.gradient not in ("unroll", "online")
        ),
        f"only windows of levels over strategies are examined: {one}": level.moves in BILEVEL,
        f"'{level.by}' has other levels too, whose windows would change with these: {one}": (
            sum(x.by == level.by for x in graph.levels) > 1
        ),
        f"'{level.by}' has an '{EVERY}' of its own: {one}": EVERY in declared(type(graph.slots[level.by]), Hyper),
        f"'curriculum', 'stagger' and 'segments' are for windows of one length: leave them out, or {one[6:]}": bool(
            level.curriculum or level.stagger or level.segments
        ),
        f"windows of exact levels have to fit into each other: set second_order=false, or {one}": (
            any(graph.levels[n].second_order for n in upper) and len(upper) > 1
        ),
        f"only windows under numbers for the whole model are examined: leave 'scope' out, or {one[6:]}": any(
            x.scope for x in graph.levels
        ),
        f"level {beside[0] if beside else 0} tries points on a clock of its own: {one}": bool(beside),
    }
    return next((why for why, holds in reasons.items() if holds), None)
