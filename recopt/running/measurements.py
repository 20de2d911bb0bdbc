"""Measurements of a run on held-out data."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..checking.errors import unknown
from ..contracts.task import Split
from ..engine.engine import Engine
from ..engine.measure import measure, measured_names, settled
from ..levels.state import RunState
from ..tracking.trace import Trace
from .spec import Spec, Until


class Measurements:
    """Measures a run on held-out data: before the first step, at intervals, and at the end.

    The results are kept only in the trace, so a resumed run has them.

    Args:
        spec: says how often (``measure``, on the ``valid`` split), and with which figures to stop early.
    """

    def __init__(self, engine: Engine, trace: Trace, spec: Spec) -> None:
        self.engine, self.trace, self.every = engine, trace, spec.measure or 0
        self.until, self.patience = Until.parse(spec.until) if spec.until else None, spec.patience

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
            self.__dict__.pop("stopped", None)
        return values

    @cached_property
    def stopped(self) -> bool:
        """True if the measurements so far end the run early."""
        if self.until:
            found = self.trace.series(0, f"valid_{self.until.key}")[1]
            if bool((found > self.until.bound if self.until.above else found < self.until.bound).any()):
                return True
        losses = self.trace.series(0, "valid_loss")[1]
        if self.patience is None or not len(losses):
            return False
        best = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
        return len(losses) - 1 - best >= self.patience

    @cached_property
    def _last(self) -> int:
        """The step of the last measurement on the ``valid`` split."""
        known = (0, "valid_loss") in self.trace.keys()  # noqa: SIM118 - not a mapping
        return int(self.trace.series(0, "valid_loss")[0][-1]) if known else 0


def check(spec: Spec, engine: Engine) -> None:
    """Refuse a missing data set, too large a batch size, and a bound on what is not measured."""
    engine.evaluator.batch(engine.state.task, 0, "train")
    key = Until.parse(spec.until).key if spec.until else None
    if key and key not in (names := measured_names(engine, "valid")):
        raise unknown("measurement", key, names, "in 'until'")
