"""Schedule-free Adam: the mean of the iterates in the place of a schedule that lets the rate fall.

Defazio et al. 2024 (2405.15682), algorithm 1 (AdamW): z goes Adam's way without a mean of gradients, x is the mean of
all z, weighted by the square of the largest rate so far, and gradients are taken between the two, at y, the point:

    v ← β2 v + (1 − β2) g²,    z ← z − lr (g / (√v / √(1 − β2ᵗ) + eps) + weight_decay · y)
    w = max lr²,   c = w / Σ w,   x ← (1 − c) x + c z,   y ← (1 − β1) z + β1 x

The model holds y while it is trained, and is measured and used at x (``eval_point``), a little further in.

State: ``{"steps": t, "fast": [z], "average": [x], "square": [v], "largest": the largest rate so far, "weight": Σ w}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, positive, unit


class ScheduleFree(Strategy):
    """Adam without momentum, and the mean of its iterates beside it; gradients are taken in between."""

    lr = positive(0.0025, "learning rate", above=0.05)
    beta1 = unit(0.9, "how far from the iterate towards the mean gradients are taken")
    beta2 = unit(0.999, "decay of the running mean of squared gradients")
    eps = positive(1e-8, "added to the root mean square", off=0.0)
    weight_decay = positive(0.0, "decoupled weight decay; 0: none", off=0.0)

    def init(self, point: Params) -> State:
        """Iterate and mean at the point, before the first step."""
        nothing = torch.zeros_like(point[0].sum())
        places = {name: [p.clone() for p in point] for name in ("fast", "average")}
        squares = [torch.zeros_like(p) for p in point]
        return {"steps": 0, **places, "square": squares, "largest": nothing, "weight": nothing.clone()}

    def eval_point(self, point: Params, state: State) -> Params:
        """x, the mean of the iterates."""
        return list(state["average"])

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        lr, beta1, beta2, steps = self.lr, self.beta1, self.beta2, state["steps"] + 1
        square = [beta2 * v + (1 - beta2) * g * g for v, g in zip(state["square"], grads, strict=True)]
        correction = (1 - beta2**steps).sqrt()
        roots = [v.clamp_min(torch.finfo(v.dtype).tiny).sqrt() / correction for v in square]
        steps_z = [g / (r + self.eps) for g, r in zip(grads, roots, strict=True)]
        if self.on("weight_decay"):
            decay = self.weight_decay
            steps_z = [s + decay * p for s, p in zip(steps_z, point, strict=True)]
        fast = [z - lr * s for z, s in zip(state["fast"], steps_z, strict=True)]
        largest = torch.maximum(state["largest"], lr.to(state["largest"]))
        weight = state["weight"] + largest**2
        share = largest**2 / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        average = [x + share * (z - x) for x, z in zip(state["average"], fast, strict=True)]
        deltas = [z + beta1 * (x - z) - p for x, z, p in zip(average, fast, point, strict=True)]
        after = {"fast": fast, "average": average, "square": square, "largest": largest, "weight": weight}
        return deltas, {"steps": steps, **after}
