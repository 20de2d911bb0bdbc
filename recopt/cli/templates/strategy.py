"""A strategy: an update rule. Its hyperparameters can be moved by the levels above it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, positive, unit


class Template(Strategy):
    """Steps along a running mean of the gradients."""

    # Hyperparameters have a domain and a default. They are tensors, so that levels above can move them.
    lr = positive(0.1, "learning rate")
    beta = unit(0.9, "decay of the running mean")

    def init(self, point: Params) -> State:
        """The state before the first step at `point`: dicts and lists of tensors and numbers."""
        return {"mean": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """The update to add to each tensor of `point`, and the new state. Change nothing in place."""
        grads = trials[0].grads
        assert grads is not None
        mean = [self.beta * m + (1 - self.beta) * g for m, g in zip(state["mean"], grads, strict=True)]
        return [-self.lr * m for m in mean], {"mean": mean}
