"""Prodigy: Adam whose step size is an estimate of the distance to the solution. No learning rate.

Mishchenko & Defazio 2023 (2306.06101), algorithm 4 (the Adam version), x₀ being the first point:

    m ← β1 m + (1 − β1) d g,    v ← β2 v + (1 − β2) d² g²
    r ← √β2 r + (1 − √β2) d² ⟨g, x₀ − x⟩,    s ← √β2 s + (1 − √β2) d² g,    d ← max(d, r / ‖s‖₁)
    x ← x − lr d · m / (√v + d eps)           (with weight decay: − lr d λ x)

Sums run over all tensors together. ``lr`` is 1 (a schedule may act on it); d grows from ``first`` by itself.

State: ``{"start": [x₀], "mean": [m], "square": [v], "sum": [s], "product": r, "distance": d}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.blocks import inner


class Prodigy(Strategy):
    """Adam with an estimated distance to the solution for a learning rate."""

    lr = positive(1.0, "multiplies the estimated distance")
    beta1 = unit(0.9, "decay of the running mean of gradients; 0: none", off=0.0)
    beta2 = unit(0.999, "decay of the running mean of squared gradients")
    eps = positive(1e-8, "added to the root mean square", off=0.0)
    weight_decay = positive(0.0, "decoupled weight decay; 0: none", off=0.0)
    first = option(1e-6, "first estimate of the distance; any small number will do")

    def init(self, point: Params) -> State:
        """Zero means, shaped as ``point``; remembers the start."""
        zeros = {name: [torch.zeros_like(p) for p in point] for name in ("mean", "square", "sum")}
        nothing = torch.zeros_like(point[0].sum())
        return {"start": [p.clone() for p in point], **zeros, "product": nothing, "distance": nothing + self.first}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        d, beta1, beta2, root = state["distance"], self.beta1, self.beta2, self.beta2.sqrt()
        mean = [beta1 * m + (1 - beta1) * d * g for m, g in zip(state["mean"], grads, strict=True)]
        square = [beta2 * v + (1 - beta2) * (d * g) ** 2 for v, g in zip(state["square"], grads, strict=True)]
        total = [root * s + (1 - root) * d * d * g for s, g in zip(state["sum"], grads, strict=True)]
        back = inner(grads, [s - p for s, p in zip(state["start"], point, strict=True)])
        product = root * state["product"] + (1 - root) * d * d * back
        length = torch.stack([s.abs().sum() for s in total]).sum()
        distance = torch.maximum(d, product / length.clamp_min(torch.finfo(length.dtype).tiny))
        roots = [v.clamp_min(torch.finfo(v.dtype).tiny).sqrt() for v in square]
        # The estimate is of this step's gradients only through what it will be used for next: d before, as theirs.
        deltas = [-self.lr * d * m / (r + d * self.eps) for m, r in zip(mean, roots, strict=True)]
        if self.on("weight_decay"):
            decay = self.lr * d * self.weight_decay
            deltas = [x - decay * p for x, p in zip(deltas, point, strict=True)]
        after = {"start": state["start"], "mean": mean, "square": square, "sum": total}
        return deltas, {**after, "product": product, "distance": distance}
