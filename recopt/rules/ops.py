"""The vocabulary in which analytic rules are written, and its three back ends.

A rule's text (:class:`.rule.Rule`) works on *columns*, lists with one entry per tensor of what is moved, and
on scalars (hyperparameters, counts of steps). The same text runs on

- :class:`TensorOps`: tensors with a graph, of any dtype, mapped over tasks; nothing is changed in place;
- :class:`ForeachOps`: tensors without a graph, many at a time, in place on the columns of the state;
- :class:`NumberOps`: plain floats, or :class:`Dual` numbers, which carry one derivative along.

Operations whose first argument is a column of the state may overwrite it: a text uses what they return from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .dual import Dual, plain

Scalar = Any
"""A float, a :class:`Dual` or a 0-dimensional tensor."""
Column = list[Any]
"""One entry per tensor of what is moved: tensors, floats or :class:`Dual` numbers."""

LEAST_ROOT = 1e-154
"""What stands in for √0 among floats; so is the gradient that is divided by it."""


class Term(NamedTuple):
    """A part ``scale · numer / denom`` of an update (``denom`` None: 1)."""

    scale: Scalar
    numer: Column
    denom: Column | None = None


class Ops(Protocol):
    """The vocabulary.

    Attributes:
        differentiates: whether somebody may differentiate what the text computes. Where a derivative is exactly 0 and
            rounding would make it something else, a text may take another way then.
    """

    differentiates: bool

    def lerp(self, a: Column, b: Column, weight: Scalar) -> Column:
        """a + weight (b − a); may overwrite ``a``."""
        ...

    def lerp_square(self, a: Column, b: Column, decay: Scalar) -> Column:
        """decay a + (1 − decay) b²; may overwrite ``a``."""
        ...

    def add_square(self, a: Column, b: Column) -> Column:
        """a + b²; may overwrite ``a``."""
        ...

    def decay_add(self, a: Column, b: Column, decay: Scalar, over: Column | None = None) -> Column:
        """decay a + b, or decay a + b / over; may overwrite ``a``."""
        ...

    def turns(self, count: Column, before: Column, after: Column) -> Column:
        """count + 1 where ``before`` and ``after`` differ in sign, neither being 0; may overwrite ``count``."""
        ...

    def latest(self, before: Column, after: Column) -> Column:
        """``after`` where it is not 0, else ``before``; may overwrite ``before``."""
        ...

    def roots(self, a: Column, plus: Scalar = 0.0) -> Column:
        """√a + plus. The slope of the root is cut at 0, where it is infinite; 0 counts as the least number there."""
        ...

    def add(self, a: Column, b: Column | Scalar, alpha: Scalar = 1.0) -> Column:
        """a + alpha b, with a column or a scalar b."""
        ...

    def mul(self, a: Column, b: Column | Scalar) -> Column:
        """a b, with a column or a scalar b."""
        ...

    def div(self, a: Column, b: Column | Scalar) -> Column:
        """a / b, with a column or a scalar b."""
        ...

    def power(self, a: Column, exponent: Scalar) -> Column:
        """a to the power of a scalar."""
        ...

    def maximum(self, a: Column, b: Column) -> Column:
        """The larger of both, entry by entry."""
        ...

    def magnitude(self, a: Column) -> Column:
        """The absolute value."""
        ...

    def sign(self, a: Column) -> Column:
        """The sign: −1, 0 or 1."""
        ...

    def sqrt(self, x: Scalar) -> Scalar:
        """The root of a scalar."""
        ...


def _pairs(a: Column, b: Column | Scalar) -> Any:
    return zip(a, b, strict=True) if isinstance(b, list) else ((x, b) for x in a)


class _Elementwise:
    """The operations that are the same for tensors and for numbers, entry by entry."""

    differentiates = True

    def lerp(self, a: Column, b: Column, weight: Scalar) -> Column:
        return [x + weight * (y - x) for x, y in zip(a, b, strict=True)]

    def lerp_square(self, a: Column, b: Column, decay: Scalar) -> Column:
        rest = 1 - decay
        return [decay * x + rest * y * y for x, y in zip(a, b, strict=True)]

    def add_square(self, a: Column, b: Column) -> Column:
        return [x + y * y for x, y in zip(a, b, strict=True)]

    def decay_add(self, a: Column, b: Column, decay: Scalar, over: Column | None = None) -> Column:
        if over is None:
            return [decay * x + y for x, y in zip(a, b, strict=True)]
        return [decay * x + y / d for x, y, d in zip(a, b, over, strict=True)]

    def add(self, a: Column, b: Column | Scalar, alpha: Scalar = 1.0) -> Column:
        return [x + alpha * y for x, y in _pairs(a, b)]

    def mul(self, a: Column, b: Column | Scalar) -> Column:
        return [x * y for x, y in _pairs(a, b)]

    def div(self, a: Column, b: Column | Scalar) -> Column:
        return [x / y for x, y in _pairs(a, b)]

    def power(self, a: Column, exponent: Scalar) -> Column:
        return [x**exponent for x in a]

    def total(self, terms: Sequence[Term]) -> Column:
        """The sum of ``terms``, entry by entry: the update."""
        columns = [
            [t.scale * n for n in t.numer] if t.denom is None
            else [t.scale * n / d for n, d in zip(t.numer, t.denom, strict=True)]
            for t in terms
        ]  # fmt: skip
        return columns[0] if len(columns) == 1 else [sum(parts[1:], parts[0]) for parts in zip(*columns, strict=True)]


class TensorOps(_Elementwise):
    """Tensors with a graph, nothing in place."""

    def turns(self, count: Column, before: Column, after: Column) -> Column:
        # Products of tiny numbers would be 0, so signs are compared.
        pairs = zip(count, before, after, strict=True)
        return [k + (b.sign() * a.sign() < 0).to(k.dtype) for k, b, a in pairs]

    def latest(self, before: Column, after: Column) -> Column:
        return [torch.where(a == 0, b, a) for b, a in zip(before, after, strict=True)]

    def roots(self, a: Column, plus: Scalar = 0.0) -> Column:
        return [x.clamp_min(torch.finfo(x.dtype).tiny).sqrt() + plus for x in a]

    def maximum(self, a: Column, b: Column) -> Column:
        return [torch.maximum(x, y) for x, y in zip(a, b, strict=True)]

    def magnitude(self, a: Column) -> Column:
        return [x.abs() for x in a]

    def sign(self, a: Column) -> Column:
        return [x.sign() for x in a]

    def sqrt(self, x: Scalar) -> Scalar:
        return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


class ForeachOps:
    """Tensors without a graph, many at a time; columns of the state are overwritten."""

    differentiates = False

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

    def latest(self, before: Column, after: Column) -> Column:
        return [torch.where(a == 0, b, a) for b, a in zip(before, after, strict=True)]

    def roots(self, a: Column, plus: Scalar = 0.0) -> Column:
        out = torch._foreach_sqrt(a)
        if plus:
            torch._foreach_add_(out, plus)
        else:
            torch._foreach_clamp_min_(out, torch.finfo(out[0].dtype).tiny ** 0.5)
        return list(out)

    def add(self, a: Column, b: Column | Scalar, alpha: Scalar = 1.0) -> Column:
        if isinstance(b, list):
            return list(torch._foreach_add(a, b, alpha=alpha))
        return list(torch._foreach_add(a, alpha * b)) if b else a

    def mul(self, a: Column, b: Column | Scalar) -> Column:
        return list(torch._foreach_mul(a, b))

    def div(self, a: Column, b: Column | Scalar) -> Column:
        return list(torch._foreach_div(a, b))

    def power(self, a: Column, exponent: Scalar) -> Column:
        return list(torch._foreach_pow(a, exponent))

    def maximum(self, a: Column, b: Column) -> Column:
        return list(torch._foreach_maximum(a, b))

    def magnitude(self, a: Column) -> Column:
        return list(torch._foreach_abs(a))

    def sign(self, a: Column) -> Column:
        return list(torch._foreach_sign(a))

    def sqrt(self, x: Scalar) -> Scalar:
        return math.sqrt(x)


class NumberOps(_Elementwise):
    """Floats and :class:`Dual` numbers, nothing in place."""

    def turns(self, count: Column, before: Column, after: Column) -> Column:
        signs = ((plain(b), plain(a)) for b, a in zip(before, after, strict=True))
        return [k + (a > 0 > b or a < 0 < b) for k, (b, a) in zip(count, signs, strict=True)]

    def latest(self, before: Column, after: Column) -> Column:
        return [a if plain(a) != 0 else b for b, a in zip(before, after, strict=True)]

    def roots(self, a: Column, plus: Scalar = 0.0) -> Column:
        return [(self.sqrt(x) if plain(x) > 0 else LEAST_ROOT) + plus for x in a]

    def maximum(self, a: Column, b: Column) -> Column:
        return [x if plain(x) >= plain(y) else y for x, y in zip(a, b, strict=True)]

    def magnitude(self, a: Column) -> Column:
        return [-x if plain(x) < 0 else x for x in a]

    def sign(self, a: Column) -> Column:
        return [(plain(x) > 0) - (plain(x) < 0) for x in a]

    def sqrt(self, x: Scalar) -> Scalar:
        if type(x) is not Dual:
            return math.sqrt(x)
        root = math.sqrt(x.value)
        return Dual(root, x.slope / (2 * root) if root else 0.0)


TENSORS, FOREACH, NUMBERS = TensorOps(), ForeachOps(), NumberOps()
