"""The way up where a window is one update, and the signal its closed derivative as it is: most towers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..levels.state import RunState, Signal
from .bottom import Bottom
from .carriers import Carriers

Other = Callable[[int, int, Signal], Signal]
"""The signal of a level of the task (second number) for one above it (first), on the loss that this one is measured on,
from that on the training loss."""


class Lean:
    """The signals of one level above the task, made of its subjects' last updates and what came after them."""

    def __init__(self, carriers: Carriers, bottom: Bottom, number: int) -> None:
        graph, self.bottom, self.number = carriers.graph, bottom, number
        level = graph.levels[number]
        self.index = graph.moved(number, graph.names[level.moves])
        self.cosine = level.normalize == "cosine"
        self.subjects = [(m, carriers.places.get(m)) for m in graph.subjects[number]]

    def __call__(self, state: RunState, other: Other) -> Signal | None:
        """The derivative of what came after; None if nothing did."""
        total: list[float] | None = None
        loss, bound, pending = None, 0.0, state.pending
        for m, place in self.subjects:
            signal = pending[m]
            if signal is None or signal.bad is not None:
                continue
            if place is None:
                found, loss = self.bottom.slopes(state, m, state.sums.get(m, [])), other(self.number, m, signal).loss
            else:
                numbers: Any = state.slots[place.level.by]
                found, loss = place.mover.slopes(state.levels[m].parts[0], signal.grads or [], numbers), signal.loss
            if found is None:
                continue
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
            if self.cosine:
                bound += self._length(state, m, signal)
        if total is None:
            return None
        return Signal(loss, [total[i] for i in self.index], bound=bound)

    def _length(self, state: RunState, m: int, signal: Signal) -> float:
        """‖update‖ ‖what came after it‖, which a cosine is measured by."""
        place = dict(self.subjects)[m]
        if place is not None:
            return place.mover.length(state.levels[m].parts[0]) * math.hypot(*(signal.grads or []))
        update = self.bottom.limits.last(state, m)
        return 0.0 if update is None else self.bottom.shards.norm(update) * (signal.norm or 0.0)
