"""Proposals of settings: a grid, random ones, or those of a zero-order strategy.

Each is a generator of batches: it yields settings (by the name of their axis) that may be tried side by side, and is
sent their losses, infinite for those that failed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..contracts.strategy import Params, State, Strategy, Trial
from .ranges import Axis

Settings = Mapping[str, Any]
Search = Generator[list[Settings], Sequence[float], None]
LENGTH = 4.6
"""The length of every axis in the coordinates that a strategy moves: two decades, the usual box of those that have one
(±2.3), so that a step is the same share of each range."""
_PATIENCE = 1000
"""Steps of a strategy, or draws, without a setting that is new, after which there is none to be had."""


@dataclass(frozen=True)
class Space:
    """The settings that can be tried: a value for each axis, without those that do not apply to the others."""

    axes: Sequence[Axis]
    fitting: Callable[[Settings], Settings] = lambda settings: settings

    def settings(self, values: Sequence[Any]) -> Settings:
        """Settings from a value for each axis."""
        return self.fitting({axis.name: value for axis, value in zip(self.axes, values, strict=True)})


def grid(space: Space) -> Search:
    """All combinations of the choices of the axes, each once; the last axis changes fastest."""
    found = list[Settings]()
    for values in itertools.product(*(one.choices for one in space.axes)):
        if (one := space.settings(values)) not in found:
            found.append(one)
    yield found


def drawn(space: Space, count: int, seed: int) -> Search:
    """``count`` independent uniform draws that differ; fewer if there are no more."""
    rng, found, misses = np.random.default_rng([seed, 1]), list[Settings](), 0
    while len(found) < count and misses < _PATIENCE:
        one = space.settings([axis.value(float(rng.random())) for axis in space.axes])
        fresh = one not in found
        misses = 0 if fresh else misses + 1
        found += [one] * fresh
    yield found


def searched(strategy: Strategy, space: Space, count: int, seed: int) -> Search:
    """Points of a zero-order strategy, until about ``count`` different settings have been tried.

    A point has a 0-dimensional float64 tensor for each axis: 0 in its middle, ``LENGTH`` from end to end, even on the
    range's scale, or over its choices. Beyond an end it is reflected. A batch that would go beyond ``count`` is not
    begun.
    """
    rng = torch.Generator().manual_seed(seed)
    point: Params = [torch.zeros((), dtype=torch.float64) for _ in space.axes]
    state, known, misses = strategy.init(point), list[Settings](), 0
    while misses < _PATIENCE:
        points = strategy.propose(point, state, rng)
        batch = [space.settings([_at(axis, float(x)) for axis, x in zip(space.axes, p, strict=True)]) for p in points]
        fresh = [one for n, one in enumerate(batch) if one not in known and one not in batch[:n]]
        if len(known) + len(fresh) > count:
            return
        known, misses = known + fresh, 0 if fresh else misses + 1
        losses = yield batch
        point, state = _decided(strategy, point, points, losses, state, rng)


class Round(NamedTuple):
    """Settings to go on with for a while, and for each the place in the round before of the trial it goes on from."""

    settings: list[Settings]
    origins: list[int]


def members(strategy: Strategy, space: Space, rounds: int, seed: int) -> Generator[Round, Sequence[float], None]:
    """The rounds of a zero-order strategy whose points go on from runs of their own (population-based training).

    Points are those of :func:`searched`. The first round begins anew, and has no origins.
    """
    rng = torch.Generator().manual_seed(seed)
    point: Params = [torch.zeros((), dtype=torch.float64) for _ in space.axes]
    state = strategy.init(point)
    for _ in range(rounds):
        points = strategy.propose(point, state, rng)
        batch = [space.settings([_at(axis, float(x)) for axis, x in zip(space.axes, p, strict=True)]) for p in points]
        losses = yield Round(batch, list(strategy.ancestors(state)))
        point, state = _decided(strategy, point, points, losses, state, rng)


def _decided(
    strategy: Strategy, point: Params, points: Sequence[Params], losses: Sequence[float], state: State,
    rng: torch.Generator,
) -> tuple[Params, State]:  # fmt: skip
    """The point and the state of a strategy after it was told the losses of its points."""
    trials = [Trial(p, p[0].new_tensor(loss)) for p, loss in zip(points, losses, strict=True)]
    with torch.no_grad():
        deltas, after = strategy.forward(point, trials, state, rng)
        return [p + d for p, d in zip(point, deltas, strict=True)], after


def _at(axis: Axis, coordinate: float) -> Any:
    """The value of ``axis`` at a coordinate: reflected into [0, 1] as 0.5 + coordinate / LENGTH."""
    unit = (0.5 + coordinate / LENGTH) % 2 if math.isfinite(coordinate) else 0.5
    return axis.value(2 - unit if unit > 1 else unit)
