"""Guards: a slot whose loss is not finite, or explodes, is put back and its level's steps are shrunk."""

from __future__ import annotations

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
    shape = (tasks,) if tasks > 1 else ()
    like = point[0]
    return Guard(tree.detach(point), tree.detach(states), like.new_zeros(shape), like.new_ones(shape))


def bad(guard: Guard, loss: Tensor, grads: Params | None) -> Tensor:
    """Where ``loss`` (0-dimensional or over tasks) or ``grads`` are not finite, or the loss has exploded."""
    loss = loss.detach()
    wrong = ~torch.isfinite(loss)
    if grads is not None:
        wrong = wrong | ~torch.isfinite(tree.norm(grads, batched=loss.ndim > 0).to(loss))
    return wrong | (loss.abs() > EXPLODE * guard.reference) if guard.seen else wrong


def passed(guard: Guard, loss: Tensor, point: Params, states: list[State]) -> Guard:
    """The guard after a good evaluation at ``point``."""
    known = guard.seen < FIRST
    reference = torch.maximum(guard.reference, loss.detach().abs()) if known else guard.reference
    scale = (guard.scale * GROW).clamp_max(1.0)
    return Guard(tree.detach(point), tree.detach(states), reference, scale, guard.seen + 1, 0, guard.restored)


def failed(guard: Guard, wrong: Tensor) -> Guard:
    """The guard after it acted where ``wrong``: steps are halved there; frozen after many failures in a row."""
    strikes = guard.strikes + 1 if bool(wrong.all()) else 0
    scale = torch.where(wrong, guard.scale * SHRINK, guard.scale)
    count = guard.restored + int(wrong.sum())
    return Guard(guard.point, guard.states, guard.reference, scale, guard.seen, strikes, count, strikes >= PATIENCE)


def capped(guard: Guard, loss: Tensor, wrong: Tensor) -> Tensor:
    """``loss`` with what exploded replaced by the worst that would have passed, so that scores stay finite."""
    worst = EXPLODE * torch.where(guard.reference > 0, guard.reference, torch.ones_like(guard.reference))
    return torch.where(wrong, worst.to(loss), loss)
