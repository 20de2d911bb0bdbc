"""Hypergradients: a window's taped points, the gradients that came after them, and one vector-Jacobian product.

For J = Σ_t w_t f(θ_t) the derivative by the meta-parameters φ is Σ_t w_t g_tᵀ ∂θ_t/∂φ with g_t = ∇f(θ_t),
which is the product of the window's points with the cotangents w_t g_t. Whether it is the exact one
(Maclaurin et al. 2015) or the one with second derivatives dropped (Andrychowicz et al. 2016, sect. 2.1)
depends only on whether the g_t that the strategy was given carry a graph; with T = 1 it is the
one-step hypergradient of Baydin et al. 2018 and Chandra et al. 2022. The model is not differentiated again.

Where the update has a closed derivative, a record holds g_tᵀ ∂θ_t/∂φ itself, and nothing is differentiated at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.estimator import Closing
from ..levels.level import TASK, Level
from ..levels.objective import score
from ..levels.state import Pair, Record, Signal, Window


def _spread(weight: Tensor, like: Tensor) -> Tensor:
    """``weight`` over the leading dimension of ``like``, or as it is if 0-dimensional."""
    return weight.view(-1, *[1] * (like.ndim - 1)) if weight.ndim else weight


def _done(records: Sequence[Record]) -> list[Record]:
    return [r for r in records if r.loss is not None]


def _scored(level: Level, records: Sequence[Record], start: Record | None) -> tuple[Tensor, list[list[Pair]]]:
    """The score of one subject's updates (0-dimensional), and its pairs record by record, the start's first."""
    losses = [r.loss for r in records if r.loss is not None]
    value, weights = score(level.objective or "mean", losses, start.loss if start else None)
    share = 1 / value.numel()
    weights = [w * share for w in weights] if share < 1 else weights
    pairs = [weighted(r, weight) for r, weight in zip([start or Record([], []), *records], weights, strict=True)]
    return value.mean(), pairs


def weighted(record: Record, weight: Tensor) -> list[Pair]:
    """The pairs of a record with their cotangents times ``weight``."""
    if record.pairs is None:
        return [(record.loss, weight)]
    return [(t, c * _spread(weight, c)) for t, c in record.pairs]


def _penalty(level: Level, records: Sequence[Record]) -> tuple[Tensor, list[Pair]]:
    """The penalty on one subject's updates, the mean over tasks, and its pairs."""
    updates = [u for r in records for u in r.update]
    if not updates:
        return torch.zeros(()), []
    tasks = next(r.loss.numel() for r in records if r.loss is not None)
    weight = level.penalty_update / tasks
    value = weight * torch.stack([(u * u).sum() for u in updates]).sum()
    return value, [(u, 2 * weight * u) for u in updates]


def _bound(records: Sequence[Record], pairs: Sequence[Sequence[Pair]]) -> Tensor:
    """‖updates‖² and ‖cotangents‖² over the window, with the cotangent of an update the sum of what came after it."""
    after: dict[int, Tensor] = {}
    squares = []
    for record, step in zip(reversed(records), reversed(pairs), strict=True):
        # A tensor without a gradient has no pair; with second derivatives the pairs are of the whole slot.
        places = {id(p): place for place, p in enumerate(record.point)}
        known = all(id(t) in places for t, _ in step)
        for k, (t, c) in enumerate(step):
            place = places[id(t)] if known else k
            after[place] = after[place] + c.detach() if place in after else c.detach()
        squares.append(trees.norm(list(after.values())) ** 2)
    updates = torch.stack([trees.norm(r.update) ** 2 for r in records]).sum()
    return torch.stack([updates, torch.stack([s.to(updates) for s in squares]).sum()])


def close(level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
    """The signal of a full window: meta-loss, hypergradient with respect to ``moved``, and what is behind it.

    ``slots`` names what each subject moves: several that move one slot (parameter groups) have one loss.
    The signal's ``grads`` are None if no entry of ``moved`` has any influence on what the window recorded.
    """
    total: Tensor | None = None
    pairs: list[Pair] = []
    bound: Tensor | None = None
    counted: set[str] = set()
    for records, start, slot in zip(window.records, window.start, slots, strict=True):
        done = _done(records)
        # With second derivatives the pairs are of the whole slot, for all of its groups.
        if done and not (slot in counted and level.second_order):
            value, found = _scored(level, done, start)
            if slot not in counted:
                total = value if total is None else total + value
            counted.add(slot)
            pairs += [pair for step in found for pair in step]
            if level.normalize == "cosines":
                extra = torch.tensor(sum(r.bound for r in done), dtype=torch.float64)
                bound = extra if bound is None else bound + extra
            elif level.normalize == "cosine":
                squares = _bound(done, found[1:])
                extra = (how.squares(squares) if slot == TASK else squares).prod().sqrt()
                bound = extra if bound is None else bound + extra
    if total is None:
        raise ValueError("an empty window has no score")
    more, at = _penalties(level, window, moved, how.imitation)
    total, pairs = total + more, pairs + at
    grads = product(pairs, moved, how)
    if not how.exact:
        # What an exact level above closes over at the same moment; nobody else reads it.
        total, pairs = total.detach(), [(t, trees.detach(c)) for t, c in pairs] if how.keep else []
    return Signal(loss=total, grads=grads, pairs=pairs, bound=bound)


def close_slopes(level: Level, window: Window, slots: Sequence[str]) -> Signal:
    """The signal of a full window whose records hold the derivative of each loss by all coordinates."""
    total: Tensor | None = None
    grads: list[float] | None = None
    counted: set[str] = set()
    for records, start, slot in zip(window.records, window.start, slots, strict=True):
        done = _done(records)
        if not done:
            continue
        value, weights = score(level.objective or "mean", [r.loss for r in done], start.loss if start else None)
        if slot not in counted:
            total = value if total is None else total + value
        counted.add(slot)
        for record, weight in zip(done, weights[1:], strict=True):
            if record.slopes is not None:
                found = [float(weight) * s for s in record.slopes]
                grads = found if grads is None else [a + b for a, b in zip(grads, found, strict=True)]
    return Signal(total, grads)


def _penalties(level: Level, window: Window, moved: Params, imitation: float) -> tuple[Tensor, list[Pair]]:
    """The penalties that are added to a window's score, and their pairs."""
    total: Tensor = moved[0].new_zeros(())
    pairs: list[Pair] = []
    for records in window.records if level.penalty_update else []:
        value, found = _penalty(level, _done(records))
        total, pairs = total + value.to(total), pairs + found
    if imitation:
        value, found = _apart(window)
        total = total + imitation * value.to(total)
        pairs += [(t, imitation * c) for t, c in found]
    if level.penalty_moved:
        total = total + level.penalty_moved * torch.stack([(p * p).sum() for p in moved]).sum()
        pairs += [(p, 2 * level.penalty_moved * p) for p in moved]
    return total, pairs


def _apart(window: Window) -> tuple[Tensor, list[Pair]]:
    """‖u − v‖² / ‖v‖² of updates u and a teacher's v, and its pairs: the mean over the window's updates and tasks.

    A teacher that does not move (v = 0) says nothing.
    """
    lessons = [(r.lesson, r.loss) for records in window.records for r in _done(records) if r.lesson]
    total, pairs = torch.zeros(()), list[Pair]()
    for lesson, loss in lessons:
        batched = loss is not None and loss.ndim > 0
        size = _squares([v for _, v in lesson], batched)
        known = size > 0
        inverse = torch.where(known, 1 / torch.where(known, size, 1.0), 0.0)
        ratio = _squares([u - v for u, v in lesson], batched) * inverse
        share = 1 / (len(lessons) * size.numel())
        total = total.to(ratio) + share * ratio.sum()
        for u, v in lesson:
            gap = 2 * share * _spread(inverse, u) * (u - v)
            pairs.append((u, gap))
            if v.requires_grad:
                pairs.append((v, -gap - 2 * share * _spread(inverse * ratio, v) * v))
    return total, pairs


def _squares(items: Sequence[Tensor], batched: bool) -> Tensor:
    """The sum of squares over all of ``items``; one per leading index if ``batched``."""
    return torch.stack([(x * x).reshape(len(x), -1).sum(1) if batched else (x * x).sum() for x in items]).sum(0)


def distance(window: Window) -> Tensor:
    """The relative squared distance between a full window's updates and those of a teacher, without a graph."""
    with torch.no_grad():
        return _apart(window)[0]


def value(level: Level, window: Window, slots: Sequence[str], moved: Params, imitation: float = 0.0) -> Tensor:
    """The score of a full window alone, 0-dimensional."""
    found: dict[str, Tensor] = {}
    for records, start, slot in zip(window.records, window.start, slots, strict=True):
        done = _done(records)
        if done and slot not in found:
            found[slot] = _scored(level, done, start)[0].detach()
    total = torch.stack(list(found.values())).sum()
    return total + _penalties(level, window, moved, imitation)[0].detach().to(total)


def product(pairs: Sequence[Pair], moved: Params, how: Closing) -> Params | None:
    """Σ cᵀ ∂t/∂moved over the ``pairs`` (t, c); None if no t depends on ``moved``."""
    live = [(t, c) for t, c in pairs if t.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in moved]
    if not live:
        return None
    outputs = [t for t, _ in live]
    cotangents = [c.detach() if c.requires_grad and not how.exact else c for _, c in live]
    found = torch.autograd.grad(
        outputs, moved, cotangents, retain_graph=how.keep or how.exact, create_graph=how.exact, allow_unused=True
    )
    if all(g is None for g in found):
        return None
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, moved, strict=True)]
