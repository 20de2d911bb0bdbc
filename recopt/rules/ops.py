"""The vocabulary in which analytic rules are written, and its three back ends.

A rule's text (:class:`.rule.Rule`) works on *columns*, one for all of what is moved, and on scalars (hyperparameters,
counts of steps). The same text runs on

- :class:`Ops`: a column is one plain number, or a :class:`Dual` one, which carries a derivative along;
- :class:`TensorOps`: a column is a list of tensors with a graph, of any dtype, mapped over tasks; none is changed;
- :class:`ForeachOps`: a list of tensors without a graph, many at a time, in place on the columns of the state.

Operations whose first argument is a column of the state may overwrite it: a text uses what they return from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dual import Dual, plain
from .shards import Shards

Scalar = Any
"""A float, a :class:`Dual` or a 0-dimensional tensor."""
Column = Any
"""What is moved, as one: a list of tensors, or a number. A text hands it to the vocabulary and to terms, whole."""

LEAST_ROOT = 1e-154
"""What stands in for √0 among floats; so is the gradient that is divided by it."""


class Term(NamedTuple):
    """A part ``scale · numer / denom`` of an update (``denom`` None: 1)."""

    scale: Scalar
    numer: Column
    denom: Column | None = None


class Arithmetic:
    """The operations that every rule may need."""

    def add(self, a: Column, b: Column | Scalar, alpha: Scalar = 1.0) -> Column:
        """a + alpha b, with a column or a scalar b."""
        return a + alpha * b

    def mul(self, a: Column, b: Column | Scalar) -> Column:
        """a b, with a column or a scalar b."""
        return a * b

    def div(self, a: Column, b: Column | Scalar) -> Column:
        """a / b, with a column or a scalar b."""
        return a / b

    def power(self, a: Column, exponent: Scalar) -> Column:
        """a to the power of a scalar."""
        return a**exponent

    def maximum(self, a: Column, b: Column) -> Column:
        """The larger of both, entry by entry."""
        return a if plain(a) >= plain(b) else b

    def at_least(self, a: Column, floor: float) -> Column:
        """The larger of an entry and a plain number."""
        return a if plain(a) >= floor else floor

    def magnitude(self, a: Column) -> Column:
        """The absolute value."""
        return -a if plain(a) < 0 else a

    def sign(self, a: Column) -> Column:
        """The sign: −1, 0 or 1."""
        return (plain(a) > 0) - (plain(a) < 0)

    def larger(self, x: Scalar, y: Scalar) -> Scalar:
        """The larger of two scalars; where they are equal, its slope is the mean of theirs."""
        for like in (x, y):
            if isinstance(like, Tensor):
                return torch.maximum(_as(like, x), _as(like, y))
        if plain(x) == plain(y):
            return (x + y) / 2
        return y if plain(y) > plain(x) else x

    def sqrt(self, x: Scalar) -> Scalar:
        """The root of a scalar."""
        if isinstance(x, Tensor):
            return x.sqrt()
        if type(x) is not Dual:
            return math.sqrt(x)
        root = math.sqrt(x.value)
        return Dual(root, x.slope / (2 * root) if root else 0.0)


def _as(like: Tensor, x: Scalar) -> Tensor:
    return x.to(like) if isinstance(x, Tensor) else like.new_tensor(x)


class Sums(Arithmetic):
    """The sums over tensors that rules may read which are ``whole``."""

    def inner(self, a: Column, b: Column) -> Column:
        """⟨a, b⟩ tensor by tensor: a number for each, which products with a column take for all of its entries."""
        return a * b

    def count(self, a: Column) -> Column:
        """The number of entries, tensor by tensor; at least 1."""
        return 1.0

    def together(self, a: Column) -> Column:
        """The sum over all tensors of a number for each, in place of each; of those that are worked on at once."""
        return a


class Ops(Sums):
    """The vocabulary, on one number.

    Attributes:
        differentiates: whether somebody may differentiate what the text computes. Where a derivative is exactly 0 and
            rounding would make it something else, a text may take another way then.
    """

    differentiates = True

    def lerp(self, a: Column, b: Column, weight: Scalar) -> Column:
        """a + weight (b − a); may overwrite ``a``."""
        return a + weight * (b - a)

    def lerp_square(self, a: Column, b: Column, decay: Scalar) -> Column:
        """decay a + (1 − decay) b²; may overwrite ``a``."""
        return decay * a + (1 - decay) * b * b

    def add_square(self, a: Column, b: Column) -> Column:
        """a + b²; may overwrite ``a``."""
        return a + b * b

    def decay_add(self, a: Column, b: Column, decay: Scalar, over: Column | None = None) -> Column:
        """decay a + b, or decay a + b / over; may overwrite ``a``."""
        return decay * a + (b if over is None else b / over)

    def turns(self, count: Column, before: Column, after: Column) -> Column:
        """count + 1 where ``before`` and ``after`` differ in sign, neither being 0; may overwrite ``count``."""
        b, a = plain(before), plain(after)
        return count + (a > 0 > b or a < 0 < b)

    def latest(self, before: Column, after: Column) -> Column:
        """``after`` where it is not 0, else ``before``; may overwrite ``before``."""
        return after if plain(after) != 0 else before

    def roots(self, a: Column, plus: Scalar = 0.0) -> Column:
        """√a + plus. The slope of the root is cut at 0, where it is infinite; 0 counts as the least number there."""
        return (self.sqrt(a) if plain(a) > 0 else LEAST_ROOT) + plus

    def total(self, terms: Sequence[Term]) -> Column:
        """The sum of ``terms``: the update."""
        out: Any = None
        for scale, numer, denom in terms:
            part = scale * numer if denom is None else scale * numer / denom
            out = part if out is None else out + part
        return out


def _entrywise(one: Callable[..., Any]) -> Any:
    """An operation on entries as one on lists of them, with the same scalars for all."""

    def over(self: Any, *given: Any, **named: Any) -> list[Any]:
        values = [*given, *named.values()]
        count = len(next(x for x in values if isinstance(x, list)))
        rows = zip(*(x if isinstance(x, list) else [x] * count for x in values), strict=True)
        return [one(self, *row[: len(given)], **dict(zip(named, row[len(given) :], strict=True))) for row in rows]

    return over


def _narrowed(scale: Scalar, column: Sequence[Tensor]) -> Scalar:
    """A float64 scalar as float32 where products with a column take it for that: once, and not tensor by tensor."""
    if not isinstance(scale, Tensor) or any(x.dtype != torch.float32 for x in column):
        return scale
    return scale.float()


class TensorOps(Ops):
    """The vocabulary on lists of tensors with a graph, nothing in place."""

    add, mul, div, power = _entrywise(Ops.add), _entrywise(Ops.mul), _entrywise(Ops.div), _entrywise(Ops.power)
    lerp, lerp_square = _entrywise(Ops.lerp), _entrywise(Ops.lerp_square)
    add_square, decay_add = _entrywise(Ops.add_square), _entrywise(Ops.decay_add)
    maximum = _entrywise(lambda ops, a, b: torch.maximum(a, b))
    at_least = _entrywise(lambda ops, a, floor: a.clamp_min(floor))
    magnitude = _entrywise(lambda ops, a: a.abs())
    sign = _entrywise(lambda ops, a: a.sign())
    # Products of tiny numbers would be 0, so signs are compared.
    turns = _entrywise(lambda ops, count, before, after: count + (before.sign() * after.sign() < 0).to(count.dtype))
    latest = _entrywise(lambda ops, before, after: torch.where(after == 0, before, after))
    roots = _entrywise(lambda ops, a, plus=0.0: a.clamp_min(torch.finfo(a.dtype).tiny).sqrt() + plus)
    inner = _entrywise(lambda ops, a, b: (a * b).sum())
    count = _entrywise(lambda ops, a: a.new_full((), max(a.numel(), 1)))

    def together(self, a: Column) -> Column:
        total = torch.stack(a).sum()
        return [total.to(x) for x in a]

    def total(self, terms: Sequence[Term]) -> Column:
        """The sum of ``terms``, entry by entry."""
        out: Any = None
        for scale, numer, denom in terms:
            factor = _narrowed(scale, numer)
            part = [factor * n for n in numer]
            part = part if denom is None else [p / d for p, d in zip(part, denom, strict=True)]
            out = part if out is None else [a + b for a, b in zip(out, part, strict=True)]
        return out


def _many(operation: Callable[..., Any]) -> Any:
    """An operation of torch on lists of tensors."""
    return lambda self, *given: list(operation(*given))


class ForeachSums(Ops):
    """Sums over tensors without a graph.

    Args:
        shards: how the tensors are split over processes, over which sums are added up.
    """

    def __init__(self, shards: Shards | None = None) -> None:
        self.shards = shards or Shards()

    def inner(self, a: Column, b: Column) -> Column:
        return self._everywhere([(x * y).sum() for x, y in zip(a, b, strict=True)])

    def count(self, a: Column) -> Column:
        return [n.clamp_min(1) for n in self._everywhere([x.new_full((), x.numel()) for x in a])]

    def together(self, a: Column) -> Column:
        total = torch.stack(a).sum()
        return [total.to(x) for x in a]

    def _everywhere(self, sums: list[Tensor]) -> list[Tensor]:
        """Sums over all processes."""
        if not self.shards or not sums:
            return sums
        numbers = self.shards.totals(torch.stack([s.double() for s in sums]).tolist(), sums[0].device)
        return [s.new_tensor(n) for s, n in zip(sums, numbers, strict=True)]


class ForeachOps(ForeachSums):
    """The vocabulary on lists of tensors without a graph, many at a time; columns of the state are overwritten."""

    differentiates = False

    mul, div, power = _many(torch._foreach_mul), _many(torch._foreach_div), _many(torch._foreach_pow)
    maximum, magnitude, sign = _many(torch._foreach_maximum), _many(torch._foreach_abs), _many(torch._foreach_sign)
    at_least = _many(torch._foreach_clamp_min)
    latest = TensorOps.latest

    def add(self, a: Column, b: Column | Scalar, alpha: Scalar = 1.0) -> Column:
        if isinstance(b, list):
            return list(torch._foreach_add(a, b, alpha=alpha))
        return list(torch._foreach_add(a, alpha * b)) if b else a

    def lerp(self, a: Column, b: Column, weight: Scalar) -> Column:
        torch._foreach_lerp_(a, b, weight)
        return a

    def lerp_square(self, a: Column, b: Column, decay: Scalar) -> Column:
        torch._foreach_mul_(a, decay)
        torch._foreach_addcmul_(a, b, b, 1 - decay)
        return a

    def add_square(self, a: Column, b: Column) -> Column:
        torch._foreach_addcmul_(a, b, b)
        return a

    def decay_add(self, a: Column, b: Column, decay: Scalar, over: Column | None = None) -> Column:
        if decay != 1:
            torch._foreach_mul_(a, decay)
        if over is None:
            torch._foreach_add_(a, b)
        else:
            torch._foreach_addcdiv_(a, b, over)
        return a

    def turns(self, count: Column, before: Column, after: Column) -> Column:
        turned = torch._foreach_mul(torch._foreach_sign(before), torch._foreach_sign(after))
        torch._foreach_clamp_max_(turned, 0.0)
        torch._foreach_sub_(count, turned)
        return count

    def roots(self, a: Column, plus: Scalar = 0.0) -> Column:
        out = torch._foreach_sqrt(a)
        if plus:
            torch._foreach_add_(out, plus)
        else:
            torch._foreach_clamp_min_(out, torch.finfo(out[0].dtype).tiny ** 0.5)
        return list(out)


NUMBERS, TENSORS, FOREACH = Ops(), TensorOps(), ForeachOps()
