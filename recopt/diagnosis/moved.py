"""The hyperparameters of a run that a level moved, and which of them went far first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from ..tracking.thinning import Floats, Ints
from .view import LevelView, RunView

TASK = "task"
"""The slot of the task, as levels name it; their module loads torch, and this one does not."""
_NEAR = 1e-3
FAR = 10.0
"""A factor from which a value has gone far."""


@dataclass(frozen=True, eq=False)
class Moved:
    """A hyperparameter ``key`` of ``user``'s strategy that level ``by`` moves: its values at ``steps``."""

    user: LevelView
    by: LevelView
    key: str
    steps: Ints
    values: Floats

    @property
    def name(self) -> str:
        """Its name in settings."""
        return f"{self.user.name}.{self.key}"

    def far(self, until: float = math.inf, factor: float = FAR) -> int | None:
        """The first step, up to ``until``, at which it is ``factor`` away from its first value, either way."""
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.abs(np.log(self.values / self.values[0])) >= math.log(factor)
        found = self.steps[away & (self.steps <= until)]
        return int(found[0]) if len(found) else None

    @np.errstate(all="ignore")
    def ends(self) -> NDArray[np.bool_]:
        """True where it is at an end of its range, by step."""
        low, high = self.user.ends.get(self.key, (-math.inf, math.inf))
        near = np.isclose(self.values, low, rtol=_NEAR, atol=0) | np.isclose(high - self.values, 0, atol=1e-12)
        return near | (np.isclose(self.values, high, rtol=_NEAR, atol=0) & (high > 1))

    def at_end(self) -> bool:
        """True if it ended at an end of its range, and did not begin there."""
        there = self.ends()
        return bool(there[-1] and not there[0])

    def wandered(self) -> tuple[float, float]:
        """The distances between its first and its last value, and between its least and its greatest.

        In logarithms, or logits where it ends below 1; infinite for values that have none.
        """
        values = self.values[self.values > 0]
        if self.user.ends.get(self.key, (0.0, math.inf))[1] < 1:
            values = values / np.maximum(1 - values, 1e-300)
        logs = np.log(values)
        return (abs(float(logs[-1] - logs[0])), float(np.ptp(logs))) if len(logs) else (math.inf, math.inf)

    def way(self, until: float = math.inf) -> str:
        """Its way in words, up to a step."""
        here = self.values[self.steps <= until]
        return f"moved {self.name} from {here[0]:.3g} to {here[-1]:.3g}"


def slot_of(level: LevelView) -> tuple[str, list[str]]:
    """The slot that a level moves, and the patterns on names that it is confined to."""
    slot, _, rest = level.moves.partition("[")
    return slot, [part for part in rest.removesuffix("]").split(",") if part]


def moved(run: RunView) -> Iterator[Moved]:
    """All that levels of a run move and whose values are recorded."""
    for by in run.levels:
        slot, only = slot_of(by)
        user = next((level for level in run.levels if level.name == slot), None)
        for key in user.start if user else ():
            steps, values = run.trace.series(user.number, key) if user else (np.empty(0, np.int64), np.empty(0))
            if user and len(values) > 1 and (not only or any(fnmatchcase(key, pattern) for pattern in only)):
                yield Moved(user, by, key, steps, values)


def first_far(run: RunView, until: float = math.inf, factor: float = FAR) -> tuple[Moved, int] | None:
    """The value that was the first to go far, up to a step, and when; None if none did."""
    found = [(at, one) for one in moved(run) if (at := one.far(until, factor)) is not None]
    at, one = min(found, key=lambda pair: (pair[0], -pair[1].by.number), default=(0, None))
    return None if one is None else (one, at)


def in_a_circle(run: RunView, level: LevelView) -> list[LevelView]:
    """The levels beside ``level`` by which its own strategy is moved, where it moves theirs; itself for a self-loop."""
    above = {one.number: [x for x in run.levels if slot_of(x)[0] == one.name] for one in run.levels}

    def reaches(one: LevelView, seen: set[int]) -> bool:
        if one.name == slot_of(level)[0]:
            return True
        return any(reaches(x, {*seen, x.number}) for x in above[one.number] if x.number not in seen)

    return [one for one in above[level.number] if reaches(one, {one.number})]
