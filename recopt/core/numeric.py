"""A step of a level that moves hyperparameters of another strategy by a rule on floats."""

from __future__ import annotations

import math
from typing import Any

from ..levels.state import RunState, Signal
from . import guard
from .bottom import Bottom
from .carriers import Carriers
from .evaluation import Around


class Numeric:
    """Steps levels by their rules' texts on floats."""

    def __init__(self, carriers: Carriers, bottom: Bottom, around: Around | None) -> None:
        self.carriers, self.bottom, self.around = carriers, bottom, around

    def step(self, state: RunState, number: int, signal: Signal) -> tuple[list[float], list[float]] | None:
        """One step of a level: the update and the signal as it was read; None if that is not finite and is left out."""
        place, own = self.carriers.places[number], state.levels[number]
        level, mover, index, part = place.level, place.mover, place.indices, own.parts[0]
        slot: Any = state.slots[level.moves]
        by: Any = state.slots[level.by]
        coords = slot.coords
        read, normal = place.normalize(signal.grads or [], part.normal, signal.bound)
        update = mover.step(part, [coords[i] for i in index], read, by.value)
        if not math.isfinite(sum(update)):
            guard.count(own.counts, "skipped")
            return None
        part.normal = normal
        if level.trust is not None:
            limit, length = level.trust * math.sqrt(len(update)), math.hypot(*update)
            update = [u * (limit / length) for u in update] if length > limit else update
        over = guard.excess(update, place.bounded) if level.guard else 1.0
        if over != 1.0:
            guard.count(own.counts, "bounded")
            update = mover.shorten(part, update, 1 / over)
            if self.carriers.rates[number] is not None:
                self.bottom.limits.lower_rate(state, number, 1 / over)
        if level.schedule != "constant" and self.around is not None:
            update = mover.shorten(part, update, self.around.factors(state, number)[0])
        place.space.put(slot, index, [coords[i] + u for i, u in zip(index, update, strict=True)])
        return update, read
