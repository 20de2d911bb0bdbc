"""Measurements of a run on held-out data."""

from __future__ import annotations

from functools import cached_property

from ..contracts.task import Split
from ..engine.engine import Engine
from ..engine.measure import measure, settled
from ..levels.state import RunState
from ..tracking.trace import Trace


class Measurements:
    """Measures a run on held-out data: before the first step, at intervals, and at the end.

    The results are kept only in the trace, so a resumed run has them.

    Args:
        every: steps between two measurements on the ``valid`` split; 0 for none.
    """

    def __init__(self, engine: Engine, trace: Trace, every: int) -> None:
        self.engine, self.trace, self.every = engine, trace, every

    @property
    def before(self) -> dict[str, float]:
        """The measurement before the first step; empty until it is made."""
        keys = [key for level, key in self.trace.keys() if level == 0 and key.startswith("test_")]  # noqa: SIM118
        return {key.removeprefix("test_"): float(self.trace.series(0, key)[1][0]) for key in keys}

    def due(self) -> RunState | None:
        """The state to measure if a measurement is due, else None; to be called after every step."""
        if not self.every:
            return None
        state = settled(self.engine, strictly=True)
        return state if state.step // self.every > self._last // self.every else None

    def measure(self, split: Split, state: RunState | None = None, record: bool = True) -> dict[str, float]:
        """Loss and metrics on ``split`` at ``state`` (None: the current one); ``record`` adds them to the trace."""
        state = state or settled(self.engine)
        values = measure(self.engine, split, state)
        if record:
            self.trace.add(0, state.step, {f"{split}_{key}": value for key, value in values.items()})
        if split == "valid":
            self._last = state.step
        return values

    @cached_property
    def _last(self) -> int:
        """The step of the last measurement on the ``valid`` split."""
        known = (0, "valid_loss") in self.trace.keys()  # noqa: SIM118 - not a mapping
        return int(self.trace.series(0, "valid_loss")[0][-1]) if known else 0
