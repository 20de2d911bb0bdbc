"""RMSprop, with momentum, centring and coupled weight decay.

Formula, elementwise, as in ``torch.optim.RMSprop`` (Hinton 2012, lecture 6e; centred: Graves 2013, 1308.0850,
eq. 38-45):

    g ← g + weight_decay · θ
    v ← decay · v + (1 − decay) g²
    r = √v                                (with ``centered``: m ← decay · m + (1 − decay) g,  r = √(v − m²))
    b ← momentum · b + g / (r + eps)
    θ ← θ − lr · b

State: ``{"square": [v per tensor]}``, with ``"mean": [m …]`` where centred and ``"momentum": [b …]`` where momentum
is on.

Where rounding makes v − m² negative (a constant gradient), torch's rule gives NaN; here it counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, positive, unit


class Rmsprop(Strategy):
    """Gradients divided by a running root mean square, with optional momentum, centring and weight decay."""

    kernel = "recopt.optim.kernels.rmsprop:RmspropKernel"
    formula = "recopt.optim.kernels.rmsprop:RmspropFormula"

    lr = positive(0.01, "learning rate", above=0.05)
    decay = unit(0.99, "decay of the running mean of squared gradients (alpha in torch)")
    eps = positive(1e-8, "added to the root mean square", off=0.0)
    momentum = unit(0.0, "decay of the momentum buffer; 0: none", off=0.0)
    weight_decay = positive(0.0, "coefficient of an L2 penalty, added to the gradient; 0: none", off=0.0)
    centered = option(False, "divide by the standard deviation instead of the root mean square")

    def init(self, point: Params) -> State:
        """Zero means, shaped as ``point``, before the first step."""
        names = ["square"] + ["mean"] * self.centered + ["momentum"] * self.on("momentum")
        return {name: [torch.zeros_like(p) for p in point] for name in names}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        lr, decay, eps = self.lr, self.decay, self.eps
        if self.on("weight_decay"):
            penalty = self.weight_decay
            grads = [g + penalty * p for g, p in zip(grads, point, strict=True)]
        square = [decay * v + (1 - decay) * g * g for v, g in zip(state["square"], grads, strict=True)]
        after: State = {"square": square}
        spread = square
        if self.centered:
            mean = [m + (1 - decay) * (g - m) for m, g in zip(state["mean"], grads, strict=True)]
            spread = [v - m * m for v, m in zip(square, mean, strict=True)]
            after["mean"] = mean
        # The clamp cuts the root's infinite slope at 0 (times a zero slope it would be NaN); beside eps it is unseen.
        roots = [s.clamp_min(torch.finfo(s.dtype).tiny).sqrt() for s in spread]
        steps = [g / (r + eps) for g, r in zip(grads, roots, strict=True)]
        if self.on("momentum"):
            momentum = self.momentum
            steps = [momentum * b + s for b, s in zip(state["momentum"], steps, strict=True)]
            after["momentum"] = steps
        return [-lr * s for s in steps], after
