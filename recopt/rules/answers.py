"""Checks of what strategies answer in a run: faults that no guard can mend are told, with strategy and level."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..levels.level import Level
from ..levels.state import RunState

CHANGED = "changed a tensor that it was given in place: compute new ones"
FIRST = 3
"""Steps of a level that are looked at closely; those after them only while evaluations of the task go wrong."""
LARGE = 1e10
"""The norm of a gradient from which on an overflow need not be the strategy's fault."""


class Answers:
    """Looks at the answers of a graph's strategies."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = levels

    def closely(self, state: RunState, number: int) -> bool:
        """True if a step of level ``number`` is to be looked at closely."""
        known = state.guard
        return state.levels[number].steps < FIRST or (known is not None and any(own.strikes for own in known.tasks))

    def fitting(self, number: int, deltas: Any, point: Sequence[Tensor]) -> None:
        """Refuse deltas that are not one for each tensor of ``point``, of its shape, dtype and device."""
        if not isinstance(deltas, list | tuple) or len(deltas) != len(point):
            count = len(deltas) if isinstance(deltas, list | tuple) else type(deltas).__name__
            self._refuse(number, f"gave {count} for the deltas of {len(point)} tensors: give a list of one for each")
        for delta, p in zip(deltas, point, strict=True):
            if delta.shape == p.shape and (not delta.ndim or (delta.dtype == p.dtype and delta.device == p.device)):
                continue  # a number may be wider than what it is added to, and computed where the losses are
            said = [f"{tuple(t.shape)} of {t.dtype} on {t.device}" for t in (delta, p)]
            self._refuse(number, f"gave a delta {said[0]} for a tensor {said[1]}: make deltas as their tensors are")

    def unchanged(self, number: int, given: Sequence[Tensor], versions: Sequence[int]) -> None:
        """Refuse a strategy that has changed what it was given, tensors which were at ``versions``."""
        if [t._version for t in given] != list(versions):
            self._refuse(number, CHANGED)

    def untouched(self, number: int, signal: Sequence[Tensor], left: Sequence[Tensor]) -> None:
        """Refuse a strategy that has changed its signal, of which no count is kept where tasks are mapped."""
        if not all(torch.allclose(a, b, 0.0, 0.0, equal_nan=True) for a, b in zip(left, signal, strict=False)):
            self._refuse(number, CHANGED)

    def sound(self, state: RunState, number: int) -> None:
        """Refuse a strategy whose state is not a number after its first steps; a later one's is told of."""
        own = state.levels[number]
        if not (state.norm < LARGE) or not any(_spoilt(part.strategy) for part in own.parts):
            return
        if own.steps <= FIRST:
            self._refuse(
                number, "has a state that is not a number after a gradient that is finite: it will not recover"
            )
        warnings.warn(f"{self._who(number)} has a state that is not a number, and will not recover.", RuntimeWarning,
                      stacklevel=2)  # fmt: skip

    def _who(self, number: int) -> str:
        return f"Level {number + 1}: strategy '{self.levels[number].by}'"

    def _refuse(self, number: int, why: str) -> None:
        raise RecoptError(f"{self._who(number)} {why} ('recopt check' says more).")


def _spoilt(state: Any) -> bool:
    """True if a number of a strategy's state is not one."""
    if isinstance(state, dict):
        return any(map(_spoilt, state.values()))
    if isinstance(state, list | tuple):
        return any(map(_spoilt, state))
    if isinstance(state, Tensor):
        return state.is_floating_point() and bool(torch.isnan(state.detach()).any())
    return isinstance(state, float) and math.isnan(state)


def given(*inputs: Any) -> tuple[list[Tensor], list[int]]:
    """The tensors of what a strategy is given, and how often each was changed in place."""
    found = trees.tensors(inputs)
    return found, [t._version for t in found]
