"""Adam as published towers have it: its rate on the whole line, its betas through (tanh x + 1) / 2.

Chandra et al. 2022 (1909.13371): v starts at eps, the moments are cut from the graph at every step, nothing is
normalized. With ``fudge=0`` and only ``lr`` moved it is the Adam of Baydin et al. 2018 (1703.04782).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, option, real

EPS = 1e-8


def squash(x: Tensor) -> Tensor:
    """From the line into (0, 1)."""
    return (x.tanh() + 1) / 2


class RawAdam(Strategy):
    """Adam whose rate is moved as it is, and may become negative."""

    lr = real(0.001, "learning rate")
    beta1 = real(math.atanh(2 * 0.9 - 1), "decay of the mean: (tanh + 1) / 2 of this")
    beta2 = real(math.atanh(2 * 0.999 - 1), "decay of the mean square: (tanh + 1) / 2 of this")
    fudge = option(EPS, "mean square before the first step")
    weight_decay = option(0.0, "coefficient of an L2 penalty, added to the gradient")

    def init(self, point: Params) -> State:
        """Zero means and mean squares of ``fudge``."""
        return {
            "steps": 0,
            "mean": [torch.zeros_like(p) for p in point],
            "square": [torch.full_like(p, self.fudge) for p in point],
        }

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        steps, beta1, beta2 = state["steps"] + 1, squash(self.beta1), squash(self.beta2)
        if self.weight_decay:
            grads = [g + self.weight_decay * p for g, p in zip(grads, point, strict=True)]
        mean = [beta1 * m.detach() + (1 - beta1) * g for m, g in zip(state["mean"], grads, strict=True)]
        square = [beta2 * v.detach() + (1 - beta2) * g * g for v, g in zip(state["square"], grads, strict=True)]
        ratios = [
            (m / (1 - beta1**steps)) / ((v / (1 - beta2**steps)).sqrt() + EPS)
            for m, v in zip(mean, square, strict=True)
        ]
        return [-(self.lr * r) for r in ratios], {"steps": steps, "mean": mean, "square": square}
