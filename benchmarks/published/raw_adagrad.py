"""AdaGrad as published towers have it: its rate lies on the whole line, and sums of squares start at 0.1.

θ ← θ − α g / √(s + 1e-10),  s ← s + g² (Chandra et al. 2022, 1909.13371).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, real

EPS, FIRST = 1e-10, 0.1


class RawAdagrad(Strategy):
    """AdaGrad whose one hyperparameter is its rate, moved as it is."""

    lr = real(0.01, "learning rate")

    def init(self, point: Params) -> State:
        """Sums of squares of 0.1."""
        return {"sum": [torch.full_like(p, FIRST) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        total = [s.detach() + g * g for s, g in zip(state["sum"], grads, strict=True)]
        deltas = [-(self.lr * g) / (s + EPS).sqrt().detach() for g, s in zip(grads, total, strict=True)]
        return deltas, {"sum": total}
