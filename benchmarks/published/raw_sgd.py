"""SGD as published towers have it: its rate lies on the whole line, and may become negative.

θ ← θ − α b, b as in ``sgd`` (Chandra et al. 2022, 1909.13371; momentum and decay: Baydin et al. 2018, 1703.04782).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, real


class RawSgd(Strategy):
    """SGD whose one hyperparameter is its rate, moved as it is."""

    lr = real(0.01, "learning rate")
    momentum = option(0.0, "decay of the momentum buffer")
    nesterov = option(False, "look ahead along the momentum")
    weight_decay = option(0.0, "coefficient of an L2 penalty, added to the gradient")

    def init(self, point: Params) -> State:
        """Zero momentum, shaped as ``point``."""
        return {"momentum": [torch.zeros_like(p) for p in point]} if self.momentum else {}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        if self.weight_decay:
            grads = [g + self.weight_decay * p for g, p in zip(grads, point, strict=True)]
        if not self.momentum:
            return [-(g * self.lr) for g in grads], state
        buffers = [self.momentum * b + g for b, g in zip(state["momentum"], grads, strict=True)]
        ahead = buffers
        if self.nesterov:
            ahead = [g + self.momentum * b for g, b in zip(grads, buffers, strict=True)]
        return [-(a * self.lr) for a in ahead], {"momentum": buffers}
