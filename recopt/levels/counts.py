"""Plain numbers in a state (counts of steps) of tasks that run side by side and did not begin together.

A strategy keeps such numbers as if it had one task. Where tasks started at different times, the engine holds them
as a :class:`recopt.levels.state.Count`, over tasks, and gives the strategy its task's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.strategy import Params, State, Strategy
from .state import Count

T = TypeVar("T")
_DTYPES = {bool: torch.bool, int: torch.float64, float: torch.float64}


def _walk(fn: Callable[[Any], Any], node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _walk(fn, value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_walk(fn, value) for value in node)
    return fn(node)


def counted(state: Any, tasks: int, device: torch.device) -> Any:
    """``state`` with each plain number as a Count over ``tasks``."""

    def held(leaf: Any) -> Any:
        kind = _DTYPES.get(type(leaf))
        if kind is None:
            return leaf
        return Count(torch.full((tasks,), leaf, dtype=kind, device=device), type(leaf) is int)

    return _walk(held, state)


def has_counts(state: Any) -> bool:
    """True if a Count is in ``state``."""
    found: list[bool] = []
    _walk(lambda leaf: found.append(isinstance(leaf, Count)), state)
    return any(found)


def opened(state: Any, dtype: torch.dtype | None) -> Any:
    """One task's ``state`` with each Count as a plain number, or as a 0-dimensional tensor of ``dtype``."""

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, Count):
            return leaf
        if dtype is None:
            value = leaf.value.item()
            return int(value) if leaf.whole and value == int(value) else value
        return leaf.value if leaf.value.dtype == torch.bool else leaf.value.to(dtype)

    return _walk(own, state)


def closed(before: Any, after: Any) -> Any:
    """The state ``after`` a step with a Count where there was one ``before``; the inverse of :func:`opened`."""
    if isinstance(before, Count):
        if isinstance(after, Tensor):
            return Count(after.to(before.value.dtype), before.whole)
        return Count(torch.full_like(before.value, after), type(after) is int)
    if isinstance(before, dict) and isinstance(after, dict):
        return {key: closed(before.get(key), value) for key, value in after.items()}
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        return type(after)(closed(b, a) for b, a in zip(before, after, strict=True))
    return after


def replaced(old: T, new: T, index: Tensor, tasks: int) -> T:
    """``old``, over ``tasks``, with ``new`` in the places ``index``; their numbers are Counts from then on.

    Raises:
        RecoptError: if the two have not the same form.
    """
    old, new = counted(old, tasks, index.device), counted(new, len(index), index.device)
    held, fresh = trees.tensors(old), trees.tensors(trees.aligned(new, old))
    if [a.shape[1:] for a in held] != [b.shape[1:] for b in fresh]:
        raise RecoptError(
            "Tasks cannot start afresh by turns where a strategy's state has another form after a step than before "
            "the first: let its init give all of it, or drop 'stagger'."
        )
    return trees.refill(old, [a.index_copy(0, index, b.to(a.dtype)) for a, b in zip(held, fresh, strict=True)])


def renewed(old: State, strategy: Strategy, points: list[Params], index: Tensor, tasks: int) -> State:
    """A strategy's state ``old``, over ``tasks``, with fresh ones in the places ``index``, which are at ``points``."""
    fresh = trees.stack([strategy.init([p.detach() for p in point]) for point in points])
    return replaced(old, fresh, index, tasks)


def cleared(old: State, index: Tensor, tasks: int) -> State:
    """A normalizer's state ``old``, over ``tasks``, as before the first signal in the places ``index``: all zero."""
    held = counted(old, tasks, index.device)
    return trees.tree_map(lambda leaf: leaf.index_fill(0, index, 0), held)
