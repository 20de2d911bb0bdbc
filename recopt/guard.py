"""Guards: a slot whose loss is not finite, or explodes, is put back and its level's steps are shrunk."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import tree
from .state import Guard, Params, State

EXPLODE = 10.0
"""A loss above this multiple of the largest among the first good ones is an explosion."""
FIRST = 10
"""How many good losses make the reference."""
SHRINK, GROW = 0.5, 1.02
PATIENCE = 30
"""Restorations in a row after which a level is frozen."""


def start(point: Params, states: list[State], tasks: int) -> Guard:
    """A guard that has seen nothing yet."""
    return Guard(tree.detach(point), tree.detach(states), [0.0] * tasks, [1.0] * tasks)


def bad(guard: Guard, losses: list[float], norms: list[float]) -> list[bool]:
    """For each task: whether its loss or gradient norm is not finite, or the loss has exploded."""
    return [
        not (math.isfinite(loss) and math.isfinite(norm)) or (guard.seen > 0 and abs(loss) > EXPLODE * reference)
        for loss, norm, reference in zip(losses, norms, guard.reference, strict=True)
    ]


def passed(guard: Guard, losses: list[float], point: Params, states: list[State]) -> Guard:
    """The guard after a good evaluation at ``point``."""
    known = guard.reference
    if guard.seen < FIRST:
        known = [max(r, abs(loss)) for r, loss in zip(known, losses, strict=True)]
    scale = [min(1.0, s * GROW) for s in guard.scale]
    return Guard(tree.detach(point), tree.detach(states), known, scale, guard.seen + 1, 0, guard.restored)


def failed(guard: Guard, wrong: list[bool]) -> Guard:
    """The guard after it acted where ``wrong``: steps are halved there; frozen after many failures in a row."""
    strikes = guard.strikes + 1 if all(wrong) else 0
    scale = [s * SHRINK if w else s for s, w in zip(guard.scale, wrong, strict=True)]
    count = guard.restored + sum(wrong)
    return Guard(guard.point, guard.states, guard.reference, scale, guard.seen, strikes, count, strikes >= PATIENCE)


def capped(guard: Guard, loss: Tensor, wrong: Tensor) -> Tensor:
    """``loss`` with what exploded replaced by the worst that would have passed, so that scores stay finite."""
    worst = loss.new_tensor([EXPLODE * (r or 1.0) for r in guard.reference])
    return torch.where(wrong, worst.view(loss.shape), loss)
