"""A step of a level that moves the task, cut off from all that came before it: its inputs and its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from .parts import Part
from .state import RunState, Signal, SlotState


@dataclass
class Crossing:
    """One step of level ``number`` (0-based).

    Attributes:
        slot: of the task; ``index``: the places of what the level moves.
        signal: the level's, with gradients and loss as leaves.
        point, states: what it moves, and the states of its parts, as leaves.
        moved, after: the same after the step, with its graph.
    """

    number: int
    slot: SlotState
    index: Sequence[int]
    signal: Signal
    parts: list[Part]
    point: Params
    states: list[Params]
    moved: Params = field(default_factory=list)
    after: list[Params] = field(default_factory=list)

    @classmethod
    def open(cls, state: RunState, number: int, index: Sequence[int], signal: Signal) -> Self:
        """The inputs of a step of level ``number``, cut off."""
        slot, parts = state.task, state.levels[number].parts
        grads = [None if g is None else _leaf(g) for g in signal.grads or []]
        loss = _leaf(signal.loss) if isinstance(signal.loss, Tensor) else signal.loss
        for i in index:
            slot.params[i] = _leaf(slot.params[i])
        for part in parts:
            part.strategy, part.normal = trees.tree_map(_leaf, part.strategy), trees.tree_map(_leaf, part.normal)
        point = [slot.params[i] for i in index]
        return cls(number, slot, index, replace(signal, grads=grads, loss=loss), parts, point, _states(parts))

    def step(self, step: Callable[[Signal], Any]) -> Any:
        """The answer of ``step``, whose outputs are then known."""
        answer = step(self.signal)
        self.moved, self.after = [self.slot.params[i] for i in self.index], _states(self.parts)
        return answer

    def close(self) -> None:
        """Cut the outputs off, so that they are inputs of what comes next."""
        for i, new in zip(self.index, self.moved, strict=True):
            self.slot.params[i] = _leaf(new)
        for part in self.parts:
            part.detach()


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_() if value.is_floating_point() else value


def _states(parts: Sequence[Part]) -> list[Params]:
    both = [trees.tensors([part.strategy, part.normal]) for part in parts]
    return [[t for t in found if t.is_floating_point()] for found in both]
