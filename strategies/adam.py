"""Adam, with weight decay either decoupled (AdamW) or as an L2 penalty.

Formula, elementwise, at step t = 1, 2, … (Kingma & Ba 2015, 1412.6980, algorithm 1; decoupled decay:
Loshchilov & Hutter 2019, 1711.05101, algorithm 2), as in ``torch.optim.AdamW`` and, with
``decoupled=False``, ``torch.optim.Adam``:

    m ← β1 m + (1 − β1) g,    v ← β2 v + (1 − β2) g²
    θ ← θ − lr · weight_decay · θ − lr · (m / (1 − β1ᵗ)) / (√v / √(1 − β2ᵗ) + eps)

State: ``{"steps": t, "mean": [m per tensor], "square": [v per tensor]}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, positive, unit


class Adam(Strategy):
    """Adam: steps of about the learning rate whatever the gradient's scale, with optional weight decay."""

    kernel = "recopt.optim.kernels.adam:AdamKernel"
    formula = "recopt.optim.kernels.adam:AdamFormula"

    lr = positive(0.001, "learning rate", above=0.05)
    beta1 = unit(0.9, "decay of the running mean of gradients; 0: none", off=0.0)
    beta2 = unit(0.999, "decay of the running mean of squared gradients")
    eps = positive(1e-8, "added to the root mean square; 0 makes the rule blind to the gradient's scale", off=0.0)
    weight_decay = positive(0.0, "weight decay; 0: none", off=0.0)
    decoupled = option(True, "decay the weights themselves (AdamW) instead of penalizing them in the gradient")

    def init(self, point: Params) -> State:
        """Zero means, shaped as ``point``, before the first step."""
        return {
            "steps": 0,
            "mean": [torch.zeros_like(p) for p in point],
            "square": [torch.zeros_like(p) for p in point],
        }

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        lr, beta1, beta2, eps = self.lr, self.beta1, self.beta2, self.eps
        decay, decays = self.weight_decay, self.on("weight_decay")
        if decays and not self.decoupled:
            grads = [g + decay * p for g, p in zip(grads, point, strict=True)]
        steps = state["steps"] + 1
        mean = [m + (1 - beta1) * (g - m) for m, g in zip(state["mean"], grads, strict=True)]
        square = [beta2 * v + (1 - beta2) * g * g for v, g in zip(state["square"], grads, strict=True)]
        rate, correction = lr / (1 - beta1**steps), (1 - beta2**steps).sqrt()
        step, spread = mean, square
        if steps == 1:
            # Both means are then the gradient's own whatever the betas are. Written out, since the rounding errors of
            # a derivative that is 0 would be a signal of full size after normalizing.
            rate, correction = lr, torch.ones_like(correction)
            step, spread = grads, [g * g for g in grads]
        # The root's slope at 0 is infinite, and infinity times a zero slope is NaN. The clamp cuts it there, and
        # is too small to be seen beside eps: a coordinate that never had a gradient does not move, as in torch.
        roots = [v.clamp_min(torch.finfo(v.dtype).tiny).sqrt() for v in spread]
        deltas = [-rate * m / (r / correction + eps) for m, r in zip(step, roots, strict=True)]
        if decays and self.decoupled:
            deltas = [d - lr * decay * p for d, p in zip(deltas, point, strict=True)]
        return deltas, {"steps": steps, "mean": mean, "square": square}
