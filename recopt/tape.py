"""Hypergradients: a window's taped points, the gradients that came after them, and one vector-Jacobian product.

For J = Σ_t w_t f(θ_t) the derivative by the meta-parameters φ is Σ_t w_t g_tᵀ ∂θ_t/∂φ with g_t = ∇f(θ_t),
which is the product of the window's points with the cotangents w_t g_t. Whether it is the exact one
(Maclaurin et al. 2015) or the one with second derivatives dropped (Andrychowicz et al. 2016, sect. 2.1)
depends only on whether the g_t that the strategy was given carry a graph; with T = 1 it is the
one-step hypergradient of Baydin et al. 2018 and Chandra et al. 2022. The model is not differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import tree
from .level import Level
from .objective import score
from .state import Pair, Params, Record, Signal, Window


class DisconnectedError(RuntimeError):
    """A level's hypergradient is None for everything it moves: the strategy below ignores it."""


@dataclass(frozen=True)
class Closing:
    """How a window ends: ``exact`` if a level above goes on differentiating, ``keep`` if others need the graph."""

    exact: bool
    keep: bool


def _spread(weight: Tensor, like: Tensor) -> Tensor:
    """``weight`` over the leading dimension of ``like``, or as it is if 0-dimensional."""
    return weight.view(-1, *[1] * (like.ndim - 1)) if weight.ndim else weight


def _weighted(level: Level, records: Sequence[Record], start: Record | None) -> tuple[Tensor, list[list[Pair]]]:
    """The score of one subject's window (0-dimensional), and its pairs record by record, the start's first."""
    losses = [r.loss for r in records if r.loss is not None]
    value, weights = score(level.objective or "mean", losses, start.loss if start else None)
    share = 1 / value.numel()
    pairs = []
    for record, weight in zip([start or Record([], []), *records], weights, strict=True):
        found = [(t, c * _spread(weight * share, c)) for t, c in record.pairs]
        if level.penalty_update:
            found += [(u, 2 * level.penalty_update * share * u) for u in record.update]
        pairs.append(found)
    value = value.mean()
    updates = [u for r in records for u in r.update] if level.penalty_update else []
    if updates:
        value = value + level.penalty_update * share * torch.stack([(u * u).sum() for u in updates]).sum()
    return value, pairs


def _bound(records: Sequence[Record], pairs: Sequence[Sequence[Pair]]) -> Tensor:
    """‖updates‖ ‖cotangents‖ over the window, with the cotangent of an update the sum of what came after it."""
    after: list[Tensor] | None = None
    squares = []
    for step in reversed(pairs):
        gradients = [c.detach() for _, c in step]
        if gradients:
            after = gradients if after is None else [a + g for a, g in zip(after, gradients, strict=True)]
        squares.append(tree.norm(after or []) ** 2)
    updates = torch.stack([tree.norm(r.update) ** 2 for r in records]).sum()
    return (updates * torch.stack([s.to(updates) for s in squares]).sum()).sqrt()


def close(level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
    """The signal of a full window: meta-loss, hypergradient with respect to ``moved``, and what is behind it.

    ``slots`` names what each subject moves: several that move one slot (parameter groups) have one loss.

    Raises:
        DisconnectedError: if no entry of ``moved`` has any influence on what the window recorded.
    """
    total: Tensor | None = None
    pairs: list[Pair] = []
    bound: Tensor | None = None
    counted: set[str] = set()
    for records, start, slot in zip(window.records, window.start, slots, strict=True):
        done = [r for r in records if r.loss is not None]
        if not done or (slot in counted and level.second_order):
            continue
        value, found = _weighted(level, done, start)
        if slot not in counted:
            total = value if total is None else total + value
        counted.add(slot)
        pairs += [pair for step in found for pair in step]
        if level.normalize == "cosine":
            extra = _bound(done, found[1:])
            bound = extra if bound is None else bound + extra
    if total is None:
        raise ValueError("an empty window has no score")
    if level.penalty_moved:
        total = total + level.penalty_moved * torch.stack([(p * p).sum() for p in moved]).sum()
        pairs += [(p, 2 * level.penalty_moved * p) for p in moved]
    grads = product(pairs, moved, how)
    if not how.exact:
        total, pairs = total.detach(), [(t, c.detach()) for t, c in pairs]
    return Signal(loss=total, grads=grads, pairs=pairs, bound=bound)


def value(level: Level, window: Window, slots: Sequence[str]) -> Tensor:
    """The score of a full window alone, 0-dimensional."""
    found: dict[str, Tensor] = {}
    for records, start, slot in zip(window.records, window.start, slots, strict=True):
        done = [r for r in records if r.loss is not None]
        if done and slot not in found:
            found[slot] = _weighted(level, done, start)[0].detach()
    return torch.stack(list(found.values())).sum()


def product(pairs: Sequence[Pair], moved: Params, how: Closing) -> Params:
    """Σ cᵀ ∂t/∂moved over the ``pairs`` (t, c)."""
    live = [(t, c) for t, c in pairs if t.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in moved]
    if not live:
        raise DisconnectedError
    outputs = [t for t, _ in live]
    cotangents = [c if how.exact else c.detach() for _, c in live]
    found = torch.autograd.grad(
        outputs, moved, cotangents, retain_graph=how.keep or how.exact, create_graph=how.exact, allow_unused=True
    )
    if all(g is None for g in found):
        raise DisconnectedError
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, moved, strict=True)]
