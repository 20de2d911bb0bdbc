"""The closed form of strategies/kesten.py on a few numbers: u = −lr g / (√s (1 + k)^power), so ∂u/∂lr = u / lr."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...contracts.strategy import State
from ..kernel import Values


class KestenFormula:
    """Kesten's rule on a few numbers."""

    def __init__(self, strategy: Any) -> None:
        self.power = float(strategy.power)

    def begin(self, size: int) -> State:
        """Nothing seen."""
        return {name: [0.0] * size for name in ("sum", "before", "turns")}

    def step(self, point: Sequence[float], grads: Sequence[float], state: State, value: Values) -> list[float]:
        """The deltas."""
        total, before, turns = state["sum"], state["before"], state["turns"]
        units = []
        for i, g in enumerate(grads):
            total[i] += g * g
            if g != 0:
                turns[i] += g > 0 > before[i] or g < 0 < before[i]
                before[i] = g
            units.append(-g / (math.sqrt(total[i]) or 1e-154) / (1 + turns[i]) ** self.power)
        state["units"] = units
        return [value["lr"] * unit for unit in units]

    def pull(self, cotangents: Sequence[float], state: State, value: Values) -> dict[str, float]:
        """⟨∂u/∂lr, c⟩."""
        return {"lr": sum(unit * c for unit, c in zip(state["units"], cotangents, strict=True))}
