"""Rules at work in place on a model's tensors, many at a time, without a tape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State
from ..levels.parts import Part
from ..levels.state import Numbers
from .numbers import NumberSpace, reads
from .ops import FOREACH, TENSORS, ForeachOps, Term
from .rule import Rule, penalized, step
from .shards import Shards

CHUNK, FAR_CHUNK = 1 << 22, 1 << 26
"""Elements worked on at once, on a CPU and elsewhere: they bound what temporaries cost to 16 and 256 MiB each, whatever
the model's size. A device that is started for every operation gets more to do at once."""
WHOLE = slice(0, None)

Sums = dict[str, list[Tensor]]
"""Named sums over a model's tensors, as 0-dimensional parts; the caller reads and adds them all at once."""


def chunks(state: State, *columns: Params) -> Iterator[tuple[slice, State, Sequence[Params]]]:
    """Stretches of the columns and of those in ``state``, each of at most CHUNK elements (or of one tensor)."""
    most = CHUNK if not columns[0] or columns[0][0].is_cpu else FAR_CHUNK
    start = filled = 0
    for i, tensor in enumerate(columns[0]):
        count = tensor.numel()
        if filled and filled + count > most:
            yield _cut(slice(start, i), state, columns)
            start, filled = i, 0
        filled += count
    if start:
        yield _cut(slice(start, None), state, columns)
    elif columns[0]:
        yield WHOLE, state, columns


def _cut(where: slice, state: State, columns: Sequence[Params]) -> tuple[slice, State, list[Params]]:
    held = {key: value[where] if isinstance(value, list) else value for key, value in state.items()}
    return where, held, [c[where] for c in columns]


def dots(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Parts of ⟨a, b⟩, 0-dimensional: tensor by tensor on a CPU, in one pass where both are contiguous; else one."""
    if not a or a[0].is_cpu or len({x.dtype for x in (*a, *b)}) > 1 or sum(x.numel() for x in a) >= 2**31:
        return [_dot(x, y) for x, y in zip(a, b, strict=True)]
    one, other = (torch.cat([x.reshape(-1) for x in column]) for column in (a, b))
    return [torch.dot(one, other)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous() and a.numel() < 2**31:
        return torch.dot(a, b) if a.ndim == 1 else torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()


class ColumnMover:
    """A rule at work in place on tensors, with the closed derivative of its last updates.

    Where only ``rule.linear`` is moved above, ⟨∂u/∂lr, c⟩ = ⟨u, c⟩ / lr with the update u computed again from the
    state; over a window of several updates it is the way come from its first point that stands for u. Where other
    hyperparameters are moved, the state before the last update is kept, and the text is differentiated again from
    there, a stretch of tensors at a time.

    Args:
        moved: hyperparameters that first-order levels above move.
        window: updates between two steps of those levels; 0 if there are none.
    """

    def __init__(self, rule: Rule, space: NumberSpace, moved: frozenset[str], window: int) -> None:
        self.rule, self.space, self.moved, self.window = rule, space, moved, window
        self.reads = reads(rule)
        self.far = bool(moved - {rule.linear})
        self._closed = self.far and hasattr(rule.accelerator, "differentiates")
        self.keeps_grads = bool(moved) and self.reads.grads
        self.keeps_point = self.reads.inside or (self.far and self.reads.point)
        self.ops = FOREACH

    def over(self, shards: Shards) -> None:
        """Add sums up over the processes that the tensors are split over."""
        self.ops = ForeachOps(shards) if shards else FOREACH

    def needs(self) -> set[str]:
        """Names of the entries that a part keeps after a step, besides the rule's state."""
        kept = {"grads": self.keeps_grads, "point": self.keeps_point, "raw": self.far,
                "before": self.far and not self._closed, "begun": self.window > 1}  # fmt: skip
        return {name for name, there in kept.items() if there}

    def begin(self, point: Params) -> State:
        """The rule's state before the first step at ``point``; what is not a column in plain numbers."""
        state = self.rule.init(point)
        return {key: value.item() if isinstance(value, Tensor) else value for key, value in state.items()}

    def step(self, part: Part, point: Params, grads: Params, numbers: Numbers, scale: float) -> None:
        """Move ``point`` in place by ``scale`` times the rule's update."""
        if self.window > 1 and not part.recorded:
            part.kept["begun"] = _copied(part.kept.get("begun"), point)
        hyper, rest = _scaled(self.rule, numbers, scale)
        faster = self.rule.accelerator
        if self.far:
            part.kept["raw"] = _copied(part.kept.get("raw"), grads)
            part.kept.pop("before", None)
            if not self._closed or not faster.differentiates(self.rule, numbers.value):
                part.kept["before"] = trees.tree_map(torch.clone, part.strategy)
        if self.keeps_point:
            part.kept["point"] = _copied(part.kept.get("point"), point)
        if self.rule.penalty() is not None:
            grads = penalized(self.rule, FOREACH, grads, point, hyper)
        if self.keeps_grads:
            part.kept["grads"] = _copied(part.kept.get("grads"), grads)
        if faster is None or not faster.step(self.rule, point, grads, part.strategy, hyper, rest):
            self._advance(part, point, grads, hyper, rest)
        part.recorded, part.scale = part.recorded + 1 if self.window > 1 else 1, scale

    def _advance(self, part: Part, point: Params, grads: Params, hyper: Mapping[str, float], scale: float) -> None:
        after: State = {}
        for where, held, (p, g) in chunks(part.strategy, point, grads):
            new = self.rule.advance(self.ops, g, p, held, hyper)
            _apply(p, self.rule.delta(FOREACH, g, p, new, hyper), scale)
            for key, value in new.items():
                if not isinstance(value, list):
                    after[key] = value
                    continue
                value = _apart(value, g, p)  # noqa: PLW2901
                if where is WHOLE:
                    after[key] = value
                else:
                    after.setdefault(key, list(part.strategy[key]))[where] = value
        part.strategy = after

    def measure(self, part: Part, point: Params, cotangents: Params, numbers: Numbers) -> Sums:
        """The sums over tensors that :meth:`slopes` reads, ``point`` being as the last step left it."""
        if not part.recorded or not self.moved:
            return {}
        sums: Sums = {}
        if self.far and "before" in part.kept:
            return self._differentiated(part, cotangents, numbers)
        if self.far:
            for _, held, (g, c) in chunks(part.strategy, part.kept["raw"], cotangents):
                for name, terms in self.rule.accelerator.measure(self.rule, c, g, held, numbers.value).items():
                    sums.setdefault(name, []).extend(terms)
            return sums
        if self.window > 1:
            return {"way": [d for _, _, (p, b, c) in chunks({}, point, part.kept["begun"], cotangents)
                            for d in dots(torch._foreach_sub(p, b), c)]}  # fmt: skip
        for p, shrink, terms, c in self._terms(part, point, cotangents, numbers):
            for number, term in enumerate(terms):
                beside = c if term.denom is None else torch._foreach_div(c, term.denom)
                sums.setdefault(str(number), []).extend(dots(term.numer, beside))
            if shrink:
                sums.setdefault("point", []).extend(dots(p, c))
            part.kept["scales"] = {"point": shrink, **{str(n): float(t.scale) for n, t in enumerate(terms)}}
        return sums

    def _terms(
        self, part: Part, point: Params, other: Params, numbers: Numbers
    ) -> Iterator[tuple[Params, float, list[Term], Params]]:
        """The terms of the last update, computed again, with the points and what is ``other`` beside them."""
        hyper, _ = _scaled(self.rule, numbers, part.scale)
        known, point = part.kept.get("grads", point), part.kept.get("point", point)
        for _, held, (p, c, g) in chunks(part.strategy, point, other, known):
            yield p, *_parted(self.rule.delta(FOREACH, g, p, held, hyper), p), c

    def _differentiated(self, part: Part, cotangents: Params, numbers: Numbers) -> Sums:
        """The texts differentiated by what is moved, from the state before the last update."""
        leaves = {
            n: torch.tensor(numbers.value[n], dtype=torch.float64, requires_grad=True) for n in sorted(self.moved)
        }
        hyper = {**numbers.value, **leaves}
        sums: Sums = {name: [] for name in leaves}
        points = part.kept.get("point", part.kept["raw"])
        for _, held, (g, p, c) in chunks(part.kept["before"], part.kept["raw"], points, cotangents):
            with torch.enable_grad():
                update, _ = step(self.rule, TENSORS, g, p, held, hyper)
            live = [(u, x) for u, x in zip(update, c, strict=True) if u.requires_grad]
            found = torch.autograd.grad([u for u, _ in live], list(leaves.values()), [x for _, x in live],
                                        allow_unused=True) if live else [None] * len(leaves)  # fmt: skip
            for name, slope in zip(leaves, found, strict=True):
                sums[name].append(g[0].new_zeros((), dtype=torch.float64) if slope is None else slope.to(g[0].device))
        return sums

    def slopes(self, part: Part, sums: Mapping[str, float], numbers: Numbers) -> list[float] | None:
        """The derivative, by the coordinates of the rule, of the loss whose cotangents were measured; None: no record.

        NaN where the arithmetic fails.
        """
        if not part.recorded or not self.moved:
            return None
        if self.far:
            if "before" not in part.kept:
                sums = self.rule.accelerator.slopes(self.rule, sums, part.strategy, numbers.value)
            return [part.scale * sums[name] * numbers.slopes[i] if name in self.moved else 0.0
                    for i, name in enumerate(self.space.names)]  # fmt: skip
        if self.window > 1:
            along = sums["way"]
        else:
            scales = part.kept["scales"]
            along = sum(scales[key] * value for key, value in sums.items() if key != "point")
            if "point" in sums:
                shrink = scales["point"]
                along += shrink * sums["point"] if self.keeps_point else shrink / (1 + shrink) * (sums["point"] - along)
        return self.space.spread(numbers, self.rule.linear, along)

    def last(self, part: Part, point: Params, numbers: Numbers) -> Params | None:
        """The last update: from the point before it where that was kept, else computed again from the state.

        None before the first, and where the gradients that it needs were not kept.
        """
        if part.recorded and "point" in part.kept:
            return list(torch._foreach_sub(point, part.kept["point"]))
        if not part.recorded or (self.reads.grads and not part.kept.get("grads")):
            return None
        _, rest = _scaled(self.rule, numbers, part.scale)
        out: Params = []
        for p, shrink, terms, _ in self._terms(part, point, point, numbers):
            found = _total(terms, rest) if terms else [torch.zeros_like(x) for x in p]
            if shrink:
                part_of = shrink * rest / (1 + shrink * rest)
                found = [u + part_of * (x - u) for u, x in zip(found, p, strict=True)]
            out += found
        return out


def _scaled(rule: Rule, numbers: Numbers, scale: float) -> tuple[Mapping[str, float], float]:
    """The hyperparameters with ``scale`` in the one that multiplies the update, and what is left of ``scale``."""
    name = rule.linear
    if scale == 1.0 or name is None:
        return numbers.value, scale
    return {**numbers.value, name: scale * numbers.value[name]}, 1.0


def _apply(point: Params, terms: Sequence[Term], scale: float) -> None:
    """point += scale · terms, in place."""
    shrink, others = _parted(terms, point)
    if shrink:
        torch._foreach_mul_(point, 1 + shrink * scale)
    for term in others:
        factor = term.scale * scale
        if term.denom is None:
            torch._foreach_add_(point, term.numer, alpha=factor)
        else:
            torch._foreach_addcdiv_(point, term.numer, term.denom, factor)


def _parted(terms: Sequence[Term], point: Params) -> tuple[float, list[Term]]:
    """The factor that all terms together put on ``point`` itself, and the terms that do not read it."""
    shrink, others = 0.0, list[Term]()
    for term in terms:
        if not term.numer or term.numer[0] is not point[0]:
            others.append(term)
        elif term.denom is None:
            shrink += float(term.scale)
        else:  # which is about to be changed
            others.append(Term(term.scale, list(torch._foreach_div(term.numer, term.denom))))
    return shrink, others


def _total(terms: Sequence[Term], scale: float) -> Params:
    """The sum of terms, new tensors."""
    out: Any = None
    for term in terms:
        part = list(term.numer) if term.denom is None else torch._foreach_div(term.numer, term.denom)
        part = torch._foreach_mul(part, term.scale * scale)
        if out is None:
            out = part
        else:
            torch._foreach_add_(out, part)
    return list(out)


def _apart(column: Params, *others: Params) -> Params:
    """``column``, copied where it is one of ``others``, which do not stay as they are."""
    if any(a is b for other in others for a, b in zip(column, other, strict=False)):
        return [t.clone() for t in column]
    return column


def _copied(room: Params | None, values: Params) -> Params:
    """``values`` copied into ``room``, or anew."""
    if room is None or len(room) != len(values):
        return [v.clone() for v in values]
    torch._foreach_copy_(room, values)
    return room
