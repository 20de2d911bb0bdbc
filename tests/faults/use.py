"""Wrong in how they can be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator

from recopt import Params, State, Trial

from . import Good, broken


@broken("zero_gradients")
class RootOfASquare(Good):
    """Takes a root whose slope at 0 is infinite."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d / ((m * m).sqrt() + 1) for d, m in zip(delta, after["memory"], strict=True)], after


@broken("zero_gradients")
class UnitLength(Good):
    """Divides by the gradient's length."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [g / (g * g).sum().sqrt() if g.numel() else g for g in super().read(trials)]


@broken("derivatives")
class DetachesTheRate(Good):
    """Loses the graph of one hyperparameter."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d - self.lr.detach() * p for d, p in zip(delta, point, strict=True)], after


@broken("derivatives")
class DetachesTheGradient(Good):
    """Loses the second derivatives that an exact unroll needs."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [g.detach() for g in super().read(trials)]


@broken("derivatives")
class DetachesAll(Good):
    """Carries no graph."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        with torch.no_grad():
            return super().forward(point, trials, state, rng)


@broken("patched")
class KeepsAReference(Good):
    """Reads a parameter by a reference of its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.table = [self._parameters["lr"]]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        rate = self.table[0]
        assert rate is not None
        delta, after = super().forward(point, trials, state, rng)
        return [d + rate.to(g) * g * 0.01 for d, g in zip(delta, self.read(trials), strict=True)], after


@broken("many_tasks")
class BranchesOnValues(Good):
    """Looks at a number."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [g if float(g.detach().abs().sum()) > 1e9 else g * 1.5 for g in super().read(trials)]


@broken("many_tasks")
class FloatOfItsOwn(Good):
    """Keeps a number in the state that differs between tasks, as if it were one of the clock."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "first": [float(p.sum()) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d * (1 + s * s) for d, s in zip(delta, state["first"], strict=True)], {**after, "first": state["first"]}
