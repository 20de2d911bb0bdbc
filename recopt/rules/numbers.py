"""Slots that are made of numbers, and rules at work on them: the upper levels of a tower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.domains import Domain, Positive, Unit
from ..contracts.strategy import State, Strategy
from ..contracts.trees import tree_map
from ..levels.state import Numbers, Part
from .dual import Dual, plain, slope
from .ops import NUMBERS, NumberOps
from .rule import Rule, penalized

LIMITS: dict[type, float] = {Positive: 80.0, Unit: 30.0}
"""Bounds on coordinates: beyond them (1e±35; 1e-13 from either end) there is no natural value in floating point."""
NOT_A_NUMBER = float("nan")
FAILS = (ZeroDivisionError, OverflowError, ValueError)


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
        self.domains = [strategy._domains.get(name, Domain()) for name in self.names]
        self.limits = [LIMITS.get(type(domain), math.inf) for domain in self.domains]
        self.bounded = [type(domain) is not Domain for domain in self.domains]

    def first(self, strategy: Strategy | None = None) -> Numbers:
        """The numbers of a strategy as it was made."""
        strategy = strategy or self.strategy
        off = {n.removesuffix("_off"): b.item() for n, b in strategy.named_buffers() if n.endswith("_off")}
        coords = [p.item() for p in strategy.parameters()]
        found = Numbers(coords, off, [1.0] * len(coords), [None] * len(coords))
        self.put(found, range(len(coords)), list(coords))
        found.version = 0
        return found

    def put(self, numbers: Numbers, indices: Sequence[int], coords: Sequence[float]) -> None:
        """Set some coordinates, within what their domains can represent."""
        numbers.version += 1
        for i, moved in zip(indices, coords, strict=True):
            limit = self.limits[i]
            if not -limit <= moved <= limit:
                moved = min(max(moved, -limit), limit)  # noqa: PLW2901
            numbers.coords[i], numbers.leaves[i] = moved, None
            numbers.value[self.names[i]], numbers.slopes[i] = natural(self.domains[i], moved)

    def spread(self, numbers: Numbers, name: str | None, along: float) -> list[float]:
        """Derivatives by all coordinates where ``name`` · ∂/∂name is ``along`` and the others' are 0."""
        out = [0.0] * len(self.names)
        if name in self.names:
            i = self.names.index(name)
            value, slope = numbers.value[name], numbers.slopes[i]
            out[i] = along if slope == value else along * slope / value if value else NOT_A_NUMBER
        return out


class _Watched(list[float]):
    """A column that notes whether anybody looks at it."""

    seen = False

    def __iter__(self) -> Iterator[float]:
        self.seen = True
        return super().__iter__()


class _Plain(NumberOps):
    """Numbers that nobody differentiates, as columns are."""

    differentiates = False


class Reads(NamedTuple):
    """The inputs that a rule's texts read.

    Attributes:
        grads: whether ``delta`` reads the gradients.
        inside: whether ``delta`` reads the point otherwise than as a term of its own, as weight decay does.
        point: whether any text reads the point.
    """

    grads: bool
    inside: bool
    point: bool


def reads(rule: Rule) -> Reads:
    """The inputs that the texts of ``rule`` read."""
    hyper = NumberSpace(rule).first().value
    grads, before, point = _Watched([1.0]), _Watched([1.0]), _Watched([1.0])
    after = rule.advance(NUMBERS, _Watched([1.0]), before, plain_state(rule, 1), hyper)
    terms = rule.delta(_Plain(), grads, point, after, hyper)
    others = [t for t in terms if t.numer is not point or t.denom is not None]
    if others:
        NUMBERS.total(others)
    anywhere = before.seen or point.seen or len(others) < len(terms) or rule.penalty() is not None
    return Reads(grads.seen, point.seen, anywhere)


def plain_state(rule: Rule, size: int) -> State:
    """The state of a rule before its first step on ``size`` numbers, in floats."""
    found = rule.init([torch.zeros((), dtype=torch.float64) for _ in range(size)])
    return tree_map(Tensor.item, found)


class NumberMover:
    """A rule at work on a few numbers, with the closed derivative of its last updates.

    The update's derivative by ``rule.linear`` is the update divided by it; by others, that of the same texts on
    :class:`Dual` numbers.

    Args:
        moved: hyperparameters that first-order levels above move.
        window: updates between two steps of those levels; 0 if there are none.
    """

    def __init__(self, rule: Rule, space: NumberSpace, moved: frozenset[str], window: int) -> None:
        self.rule, self.space, self.window = rule, space, window
        self.linear = rule.linear if rule.linear in moved else None
        self.others = sorted(moved - {rule.linear})
        self.penalty = rule.penalty()
        self._at = space.names.index(self.linear) if self.linear is not None else None

    def needs(self) -> set[str]:
        """Names of the entries that a part keeps after a step, besides the rule's state."""
        return {name for name, there in {"way": self.window, "tangents": self.others}.items() if there}

    def begin(self, point: Sequence[float]) -> State:
        """The rule's state before the first step."""
        return plain_state(self.rule, len(point))

    def step(self, part: Part, point: list[float], grads: list[float], hyper: Mapping[str, float]) -> list[float]:
        """The update; NaN where the arithmetic fails."""
        try:
            update, after = self._update(point, grads, part.strategy, hyper)
            if self.others:
                part.kept["tangents"] = [
                    self._tangent(name, point, grads, part.strategy, hyper) for name in self.others
                ]
            part.strategy = after
        except FAILS:
            update = [NOT_A_NUMBER] * len(point)
        if self.window:
            more = self.window > 1 and part.recorded
            part.kept["way"] = [a + b for a, b in zip(part.kept["way"], update, strict=True)] if more else update
            part.recorded = part.recorded + 1 if self.window > 1 else 1
        return update

    def _update(
        self, point: list[Any], grads: list[Any], state: State, hyper: Mapping[str, Any]
    ) -> tuple[list[Any], State]:
        rule = self.rule
        if self.penalty is not None:
            grads = penalized(rule, NUMBERS, grads, point, hyper)
        after = rule.advance(NUMBERS, grads, point, state, hyper)
        return NUMBERS.total(rule.delta(NUMBERS, grads, point, after, hyper)), after

    def _tangent(
        self, name: str, point: list[float], grads: list[float], state: State, hyper: Mapping[str, float]
    ) -> list[float]:
        """∂update/∂name, the state before held fixed."""
        update, _ = self._update(point, grads, state, {**hyper, name: Dual(hyper[name], 1.0)})
        return [slope(u) for u in update]

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
        for u, s in zip(part.kept["way"], signal, strict=True):
            along += u * s
        out = [0.0] * len(numbers.coords)
        if self._at is not None:
            # Where the rate is a logarithm, its slope is its value.
            rate, value = numbers.slopes[self._at], numbers.value[self.space.names[self._at]]
            out[self._at] = along if rate == value else along * rate / value if value else NOT_A_NUMBER
        for name, tangents in zip(self.others, part.kept.get("tangents", ()), strict=False):
            i = self.space.names.index(name)
            out[i] = numbers.slopes[i] * sum(t * s for t, s in zip(tangents, signal, strict=True))
        return out

    def length(self, part: Part) -> float:
        """The norm of the last update."""
        return math.sqrt(sum(plain(u) ** 2 for u in part.kept["way"]))
