"""RMSprop as published towers have it: moved are the root of its rate, and its decay through (tanh x + 1) / 2.

θ ← θ − x² g / √(s + 1e-8),  s ← γ s + (1 − γ) g², s cut from the graph at every step (Chandra et al. 2022, 1909.13371).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, real

EPS = 1e-8


class RawRmsprop(Strategy):
    """RMSprop whose rate is the square of what is moved."""

    root = real(0.1, "root of the learning rate")
    decay = real(math.atanh(2 * 0.99 - 1), "decay of the mean square: (tanh + 1) / 2 of this")

    def init(self, point: Params) -> State:
        """Mean squares of 0."""
        return {"square": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        decay, rate = (self.decay.tanh() + 1) / 2, self.root * self.root
        square = [decay * s.detach() + (1 - decay) * g * g for s, g in zip(state["square"], grads, strict=True)]
        return [-(rate * g) / (s + EPS).sqrt() for g, s in zip(grads, square, strict=True)], {"square": square}
