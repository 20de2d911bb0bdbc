"""Strategies for the battery's own tests: two that are right, and in the modules many that are wrong in one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, positive


class Good(Strategy):
    """Momentum, done right."""

    lr = positive(0.1)
    beta = positive(0.5)

    def init(self, point: Params) -> State:
        return {"steps": 0, "memory": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        memory = [self.beta * m + g for m, g in zip(state["memory"], self.read(trials), strict=True)]
        return [-self.lr * m for m in memory], {"steps": state["steps"] + 1, "memory": memory}

    def read(self, trials: Sequence[Trial]) -> Params:
        assert trials[0].grads is not None
        return trials[0].grads


class GoodSearch(Strategy):
    """The better of two points, done right."""

    order = 0
    vectorize = False
    step = positive(0.3)

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        noise = [torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p) for p in point]
        return [point, [p + self.step * n for p, n in zip(point, noise, strict=True)]]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        moves = [q - p for p, q in zip(point, trials[1].point, strict=True)]
        return [torch.where(self.better(trials), m, torch.zeros_like(m)) for m in moves], state

    def better(self, trials: Sequence[Trial]) -> Tensor:
        assert trials[0].loss is not None
        assert trials[1].loss is not None
        return trials[1].loss.isfinite() & ~(trials[1].loss >= trials[0].loss)


BROKEN: dict[str, list[Callable[[], Any]]] = {}
"""Wrong in one way each: by the rule that must find it, and no other may."""


def broken(rule: str) -> Callable[[Any], Any]:
    def keep(wrong: Any) -> Any:
        BROKEN.setdefault(rule, []).append(wrong)
        return wrong

    return keep
