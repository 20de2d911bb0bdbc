"""Guards: a slot whose loss is not finite, or explodes, is put back and its level's step is shrunk.

An explosion is a loss above ten times the largest of the first ten good ones. If the loss is as high at the point that
was put back, it was not the step (harder data, another weight in the loss): steps are as long as before then, and the
first ten are counted from there.
With many tasks each has its own mask, scale and count of strikes: one that fails does not touch the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State
from . import counts
from .state import Guard

EXPLODE = 10.0
"""A loss above this multiple of the largest among the first good ones is an explosion."""
FIRST = 10
"""How many good losses make the reference."""
SHRINK, GROW = 0.5, 1.02
PATIENCE = 30
"""Bad evaluations without a good step between them after which a level is frozen."""


def start(point: Params, states: list[State], tasks: int) -> Guard:
    """A guard that has seen nothing yet."""
    good = trees.detach(point), trees.detach(states)
    return Guard(*good, [0.0] * tasks, [1.0] * tasks, [0] * tasks, [0] * tasks, wrong=[False] * tasks)


def bad(guard: Guard, losses: list[float], norms: list[float], explosions: bool = True) -> list[bool]:
    """For each task: whether its loss or gradient norm is not finite, or the loss has exploded.

    ``explosions`` is False for meta-losses that have no natural zero, such as an improvement.
    """
    found = []
    for loss, norm, large, before in zip(losses, norms, _large(guard, losses), guard.wrong, strict=True):
        explodes = explosions and large and not before
        found.append(explodes or not (math.isfinite(loss) and math.isfinite(norm)))
    return found


def resized(guard: Guard, wrong: list[bool], losses: list[float]) -> list[bool]:
    """For each task: whether the loss at a point that was put back says that losses have another size now."""
    if not any(guard.wrong):
        return [False] * len(losses)
    found = zip(_large(guard, losses), guard.wrong, wrong, strict=True)
    return [large and before and not failed for large, before, failed in found]


def _large(guard: Guard, losses: list[float]) -> list[bool]:
    return [0 < EXPLODE * reference < loss for reference, loss in zip(guard.reference, losses, strict=True)]


def frozen(guard: Guard) -> list[bool]:
    """For each task: whether its slot has failed so often that nothing moves it any more."""
    return [strikes >= PATIENCE for strikes in guard.strikes]


def judged(guard: Guard, wrong: list[bool], losses: list[float], point: Params, states: list[State]) -> Guard:
    """The guard after an evaluation at ``point``, which (like ``states``) was put back where that was ``wrong``."""
    known, scale, strikes, seen = [*guard.reference], [*guard.scale], [*guard.strikes], [*guard.seen]
    larger = resized(guard, wrong, losses)
    for n, (failed, loss) in enumerate(zip(wrong, losses, strict=True)):
        # The first evaluation after a failure is of the point that was put back: only the next one judges a step.
        judges = not guard.wrong[n]
        if failed:
            scale[n] *= SHRINK if judges else 1.0
            strikes[n] += 1
            continue
        if larger[n]:
            seen[n], scale[n] = 0, scale[n] / SHRINK
        if seen[n] < FIRST:
            known[n] = max(known[n], abs(loss))
        seen[n] += 1
        scale[n] = min(1.0, scale[n] * GROW)
        if judges and strikes[n] < PATIENCE:
            strikes[n] = 0
    restored = guard.restored + sum(wrong)
    return Guard(trees.detach(point), trees.detach(states), known, scale, strikes, seen, restored, list(wrong))


def replaced(guard: Guard, part: Guard, places: list[int], index: Tensor) -> Guard:
    """``guard`` with ``part`` in the ``places`` (as a tensor: ``index``) of the tasks that have started afresh."""
    tasks = len(guard.reference)
    point = counts.replaced(guard.point, part.point, index, tasks)
    states = counts.replaced(guard.states, part.states, index, tasks)
    out = Guard(
        point, states, [*guard.reference], [*guard.scale], [*guard.strikes], [*guard.seen],
        guard.restored + part.restored, [*guard.wrong],
    )  # fmt: skip
    for k, n in enumerate(places):
        out.reference[n], out.scale[n], out.strikes[n] = part.reference[k], part.scale[k], part.strikes[k]
        out.seen[n], out.wrong[n] = part.seen[k], part.wrong[k]
    return out


def capped(guard: Guard, loss: Tensor, wrong: Tensor) -> Tensor:
    """``loss`` with what exploded replaced by the worst that would have passed, so that scores stay finite."""
    worst = loss.new_tensor([EXPLODE * (r or 1.0) for r in guard.reference])
    return torch.where(wrong, worst.view(loss.shape), loss)
