"""The way that hyperparameters went in another run, in place of the levels that found it.

At update n of the strategy below, counted from 0, the values are those of its update ⌊n / stretch⌋ in that run; after
the last one they stay. The levels above it need not search again. Nothing is random, and no signal is read.

``recopt run --replay RUN`` puts this level where RUN had levels that moved hyperparameters, and gives it the file that
RUN wrote at its end. Values are coordinates (logarithms of rates, logits of betas), as levels move them, so that they
come back to the bit.

State: ``{"updates": n}``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator

from recopt import Params, RecoptError, State, Strategy, Trial, option
from recopt.toolkit.schedule import load_schedules


class Replay(Strategy):
    """The hyperparameters of another run, as they went there step by step."""

    order = 0
    level: ClassVar[Mapping[str, Any]] = {"window": 1}
    files: ClassVar[tuple[str, ...]] = ("record",)

    population = option(1, "points at every step, which are not compared with any", choices=(1,))
    record = option("", "the file schedule.safetensors of the run")
    of = option("", "the slot whose hyperparameters they were; none needed if only one had some that moved")
    stretch = option(1.0, "how many times as long each value is held")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not self.record:
            raise RecoptError("'replay' needs the record of a run: 'recopt run --replay RUN' gives it one.")
        if not self.stretch > 0:
            raise RecoptError(f"replay.stretch must be above 0, not {self.stretch:g}.")
        found, _ = load_schedules(Path(self.record))
        slot = self.of or next(iter(found))
        if slot not in found or (not self.of and len(found) > 1):
            raise RecoptError(f"{self.record} has schedules of {', '.join(found)}: say which, as in of={max(found)}.")
        self._starts: list[int] = found[slot].starts.tolist()
        self._names = list(found[slot].values)
        self._points = torch.stack(list(found[slot].values.values()), 1)

    def init(self, point: Params) -> State:
        """Before the first update."""
        if len(point) != len(self._names):
            raise RecoptError(f"The schedule in {self.record} is of {', '.join(self._names)}, and the level moves "
                              f"{len(point)} parameters: write replay[{','.join(self._names)}].")  # fmt: skip
        return {"updates": 0}

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """The values that are next."""
        at = bisect_right(self._starts, int(state["updates"] / self.stretch + 1e-9)) - 1
        return [[value.to(p).expand(p.shape) for value, p in zip(self._points[at], point, strict=True)]]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Stay at them."""
        return [q - p for p, q in zip(point, trials[0].point, strict=True)], {"updates": state["updates"] + 1}
