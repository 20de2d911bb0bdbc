"""The record of levels' steps, in runs that keep one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..contracts import trees
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.state import Numbers, RunState, Signal
from .evaluation import Around


class Log:
    """Records steps.

    Args:
        tasks: how many run side by side: what is recorded is then the mean over them.
    """

    def __init__(self, graph: Graph, around: Around, tasks: int) -> None:
        self.graph, self.around, self.tasks = graph, around, tasks

    def step(self, state: RunState, number: int, signal: Signal, update: Sequence[Any], read: Any) -> None:
        """Record a step of level ``number``: the sizes of ``update``, of the signal, and of how it was read."""
        level = self.graph.levels[number]
        batched = self.tasks > 1 and level.moves == TASK
        values: dict[str, Any] = {"update_norm": _size(update, batched)}
        if signal.grads is not None:
            there = [g for g in signal.grads if g is not None]
            values["signal_norm"] = signal.norm if signal.norm is not None else _size(there, batched)
        if level.normalize != "none" and read is not None:
            values["normalized_norm"] = _size(read, batched)
        if level.moves != TASK and signal.loss is not None:
            values["meta_loss"] = _mean(signal.loss)
        self.around.log(state, number, values)
        self.hyperparameters(state, number)

    def hyperparameters(self, state: RunState, number: int) -> None:
        """Record the hyperparameters that a level has just stepped with, where they changed."""
        name, own = self.graph.levels[number].by, state.levels[number]
        slot, strategy = state.slots[name], self.graph.slots[name]
        if own.logged == slot.version:
            return
        own.logged = slot.version
        if isinstance(slot, Numbers):
            found: dict[str, Any] = {n: slot.value[n] for n in self.graph.names[name] if n in strategy._domains}
        else:
            here = dict(zip(self.graph.names[name], [p.detach() for p in slot.params], strict=True))
            found = dict(strategy.natural(here))
        if found:
            self.around.log(state, number, found)


def _size(values: Sequence[Any], batched: bool) -> Any:
    """The norm, the mean over tasks."""
    if values and not isinstance(values[0], Tensor):
        return math.hypot(*values)
    return _mean(trees.norm(values, batched))


def _mean(value: Any) -> Any:
    """Over tasks, without a graph."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().mean() if value.ndim else value.detach()
