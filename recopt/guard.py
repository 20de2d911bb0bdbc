"""Guards: a slot whose loss is not finite, or explodes, is put back and its level's steps are shrunk.

With many tasks each has its own mask, scale and count of strikes: one that fails does not touch the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import tree
from .state import Guard
from .strategy import Params, State

EXPLODE = 10.0
"""A loss above this multiple of the largest among the first good ones is an explosion."""
FIRST = 10
"""How many good losses make the reference."""
SHRINK, GROW = 0.5, 1.02
PATIENCE = 30
"""Restorations without a good step between them after which a level is frozen."""


def start(point: Params, states: list[State], tasks: int) -> Guard:
    """A guard that has seen nothing yet."""
    return Guard(tree.detach(point), tree.detach(states), [0.0] * tasks, [1.0] * tasks, [0] * tasks)


def bad(guard: Guard, losses: list[float], norms: list[float], explosions: bool = True) -> list[bool]:
    """For each task: whether its loss or gradient norm is not finite, or the loss has exploded.

    ``explosions`` is False for meta-losses that have no natural zero, such as an improvement.
    """
    found = []
    for loss, norm, reference in zip(losses, norms, guard.reference, strict=True):
        explodes = explosions and reference > 0 and loss > EXPLODE * reference
        found.append(not (math.isfinite(loss) and math.isfinite(norm)) or explodes)
    return found


def frozen(guard: Guard) -> list[bool]:
    """For each task: whether its slot has failed so often that nothing moves it any more."""
    return [strikes >= PATIENCE for strikes in guard.strikes]


def judged(guard: Guard, wrong: list[bool], losses: list[float], point: Params, states: list[State]) -> Guard:
    """The guard after an evaluation at ``point``, which (like ``states``) was put back where that was ``wrong``."""
    known, scale, strikes = list(guard.reference), list(guard.scale), list(guard.strikes)
    for n, (failed, loss) in enumerate(zip(wrong, losses, strict=True)):
        if failed:
            scale[n] *= SHRINK
            strikes[n] += 1
            continue
        if guard.seen < FIRST:
            known[n] = max(known[n], abs(loss))
        scale[n] = min(1.0, scale[n] * GROW)
        # The first evaluation after a failure is of the point that was put back: only the next one judges a step.
        if not (guard.wrong and guard.wrong[n]) and strikes[n] < PATIENCE:
            strikes[n] = 0
    seen, restored = guard.seen + (not all(wrong)), guard.restored + sum(wrong)
    return Guard(tree.detach(point), tree.detach(states), known, scale, strikes, seen, restored, list(wrong))


def capped(guard: Guard, loss: Tensor, wrong: Tensor) -> Tensor:
    """``loss`` with what exploded replaced by the worst that would have passed, so that scores stay finite."""
    worst = loss.new_tensor([EXPLODE * (r or 1.0) for r in guard.reference])
    return torch.where(wrong, worst.view(loss.shape), loss)
