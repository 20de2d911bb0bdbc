"""Slots that are made of numbers, and rules at work on them: the upper levels of a tower."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import add, mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.domains import Domain, Positive, Unit
from ..contracts.settings import Hyper, declared
from ..contracts.strategy import State, Strategy
from ..contracts.trees import tree_map
from ..levels.parts import Part
from ..levels.state import Numbers
from .compiled import compiled
from .dual import Dual, slope
from .ops import NUMBERS
from .rule import Rule, step

NOT_A_NUMBER = float("nan")
FAILS = (ZeroDivisionError, OverflowError, ValueError)
"""Errors of arithmetic on floats; the last is that of roots and logarithms."""


def natural(domain: Domain, coordinate: float) -> tuple[float, float]:
    """The natural value of a coordinate, and its derivative, in plain numbers."""
    if type(domain) is Domain:
        return coordinate, 1.0
    if type(domain) is Positive:
        value = math.exp(coordinate)
        return value, value
    if type(domain) is Unit:
        small = math.exp(-abs(coordinate))
        value = (1.0 if coordinate >= 0 else small) / (1.0 + small)
        return value, small / (1.0 + small) ** 2
    leaf = torch.tensor(coordinate, dtype=torch.float64, requires_grad=True)
    if not domain.smooth:
        return domain.natural(leaf).item(), 0.0
    with torch.enable_grad():
        there = domain.natural(leaf)
        (found,) = torch.autograd.grad(there, leaf)
    return there.item(), found.item()


def made_of_numbers(strategy: Strategy) -> bool:
    """True if all parameters of a strategy are 0-dimensional."""
    return all(p.ndim == 0 for p in strategy.parameters())


class NumberSpace:
    """The coordinates of a strategy that has hyperparameters only: what they are called, and where they may be.

    Attributes:
        bounded: for each, whether its natural unit has bounds (its coordinate is a logarithm or a logit).
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.names = [name for name, _ in strategy.named_parameters()]
        self.places: dict[str | None, int] = {name: i for i, name in enumerate(self.names)}
        self.domains = [strategy._domains.get(name, Domain()) for name in self.names]
        self.ends = [domain.ends() for domain in self.domains]
        self.bounded = [type(domain) is not Domain for domain in self.domains]
        for name, hyper in declared(type(strategy), Hyper).items():
            if hyper.most is not None and name in self.places and self.bounded[self.places[name]]:
                self.ends[self.places[name]] = self.ends[self.places[name]][0], hyper.domain.coordinate(hyper.most)

    def first(self, strategy: Strategy | None = None) -> Numbers:
        """The numbers of a strategy as it was made."""
        strategy = strategy or self.strategy
        off = {n.removesuffix("_off"): b.item() for n, b in strategy.named_buffers() if n.endswith("_off")}
        coords = [p.item() for p in strategy.parameters()]
        found = Numbers(coords, off, [1.0] * len(coords), [None] * len(coords))
        self.put(found, range(len(coords)), list(coords), given=True)
        found.version = 0
        return found

    def put(self, numbers: Numbers, indices: Sequence[int], coords: Sequence[float], given: bool = False) -> None:
        """Set some coordinates, within what their domains can represent and, if they are moved, what is the most."""
        numbers.version += 1
        for place, i in enumerate(indices):
            moved, (low, high) = coords[place], self.domains[i].ends() if given else self.ends[i]
            if not low <= moved <= high:
                moved = min(max(moved, low), high)
            numbers.coords[i], numbers.leaves[i] = moved, None
            numbers.value[self.names[i]], numbers.slopes[i] = natural(self.domains[i], moved)

    def spread(self, numbers: Numbers, name: str | None, along: float) -> list[float]:
        """Derivatives by all coordinates where ``name`` · ∂/∂name is ``along`` and the others' are 0."""
        out = [0.0] * len(self.names)
        i = self.places.get(name)
        if i is not None:
            # Where it is a logarithm, its slope is its value.
            value, slope = numbers.value[self.names[i]], numbers.slopes[i]
            out[i] = along if slope == value else along * slope / value if value else NOT_A_NUMBER
        return out


class Reads(NamedTuple):
    """The inputs that a rule's texts read.

    Attributes:
        grads: whether ``delta`` reads the gradients.
        inside: whether ``delta`` reads the point otherwise than as a term of its own, as weight decay does, or whether
            that term cancels it.
        point: whether any text reads the point.
    """

    grads: bool
    inside: bool
    point: bool


class _Noting:
    """The vocabulary on numbers that nobody differentiates, as columns are; it notes what it is given."""

    differentiates = False

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getattr__(self, word: str) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            self.seen += [*given, *named.values()]
            return getattr(NUMBERS, word)(*given, **named)

        return noted


def reads(rule: Rule) -> Reads:
    """The inputs that the texts of ``rule`` read."""
    hyper = NumberSpace(rule).first().value
    ops: Any = _Noting()
    grads, before, point = float("1.5"), float("1.25"), float("1.125")  # objects of their own
    after = rule.advance(ops, float("1.5"), before, entry_state(rule, before), hyper)
    terms = rule.delta(ops, grads, point, after, hyper)
    others = [t for t in terms if t.numer is not point or t.denom is not None]
    found = {id(x) for x in (*ops.seen, *(x for term in others for x in (term.numer, term.denom)))}
    anywhere = id(before) in found or id(point) in found or len(others) < len(terms) or rule.penalty() is not None
    # A term that cancels the point leaves nothing of it to tell it from afterwards.
    gone = any(t.numer is point and t.denom is None and t.scale == -1 for t in terms)
    shown = Reads(id(grads) in found, id(point) in found or gone, anywhere)
    return shown._replace(**dict.fromkeys(rule.also_reads, True))


def entry_state(rule: Rule, at: float) -> State:
    """The state of a rule before its first step on one number, in floats."""
    found = tree_map(Tensor.item, rule.init([torch.tensor(at, dtype=torch.float64)]))
    return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}


class NumberMover:
    """A rule at work on a few numbers, each by itself, with the closed derivative of its last updates.

    The update's derivative by ``rule.linear`` is the update divided by it; by others, that of the same texts on
    :class:`Dual` numbers.

    Args:
        moved: hyperparameters that first-order levels above move.
        window: updates between two steps of those levels; 0 if there are none.
    """

    def __init__(self, rule: Rule, space: NumberSpace, moved: frozenset[str], window: int) -> None:
        self.rule, self.space, self.window = rule, space, window
        self.others = {name: space.places[name] for name in sorted(moved - {rule.linear})}
        self._step = compiled(rule, entry_state(rule, 0.0))
        self._rate = rule.linear if rule.linear in moved else None

    def needs(self) -> set[str]:
        """Names of the entries that a part keeps after a step, besides the rule's state."""
        return {name for name, there in {"way": self.window, "tangents": self.others}.items() if there}

    def begin(self, point: Sequence[float]) -> State:
        """The rule's state before the first step."""
        return {"each": [entry_state(self.rule, at) for at in point]}

    def step(
        self, part: Part, point: list[float], grads: list[float], hyper: Mapping[str, float]
    ) -> list[float] | None:
        """The update; None where it is not finite, or the arithmetic fails, and nothing is remembered of it."""
        before, kept = part.strategy["each"], part.kept
        if len(grads) != len(before):
            raise ValueError(f"{len(grads)} gradients were given for {len(before)} numbers.")
        try:
            update, after = self._step(grads, point, before, hyper)
            tangents = self._tangents(list(zip(grads, point, before, strict=True)), hyper) if self.others else []
        except FAILS:
            return None
        if not math.isfinite(sum(update)):
            return None
        part.strategy = {"each": after}
        if tangents:
            kept["tangents"] = tangents
        if self.window:
            more = self.window > 1 and part.recorded
            kept["way"] = list(map(add, kept["way"], update)) if more else update
            part.recorded = part.recorded + 1 if more else 1
        return update

    def _tangents(self, rows: Sequence[tuple[float, float, State]], hyper: Mapping[str, float]) -> list[list[float]]:
        """∂update/∂name by name, the states before held fixed, of each (gradient, point, state)."""
        at = [{**hyper, name: Dual(hyper[name], 1.0)} for name in self.others]
        return [[slope(step(self.rule, NUMBERS, *row, there)[0]) for row in rows] for there in at]

    def shorten(self, part: Part, update: Sequence[float], keep: float) -> list[float]:
        """``keep`` of the last update, which takes its place in what derivatives are made from."""
        kept = [u * keep for u in update]
        if self.window:
            ways = zip(part.kept["way"], kept, update, strict=True)
            part.kept["way"] = kept if self.window == 1 else [w + (k - u) for w, k, u in ways]
        if "tangents" in part.kept:
            part.kept["tangents"] = [[t * keep for t in tangents] for tangents in part.kept["tangents"]]
        return kept

    def slopes(self, part: Part, signal: Sequence[float], numbers: Numbers) -> list[float] | None:
        """The derivative, by the coordinates of the rule, of the loss whose gradient ``signal`` is; None: no record."""
        if not part.recorded or not self.window:
            return None
        along = 0.0
        for term in map(mul, part.kept["way"], signal):
            along += term
        out = self.space.spread(numbers, self._rate, along)
        for i, tangents in zip(self.others.values(), part.kept["tangents"], strict=True) if self.others else ():
            out[i] = numbers.slopes[i] * sum(map(mul, tangents, signal))
        return out

    def length(self, part: Part) -> float:
        """The norm of the last update."""
        return math.hypot(*part.kept["way"])
