"""Adagrad: gradients divided by the root of the sum of all squares so far.

Formula, elementwise, at step t = 1, 2, … (Duchi et al. 2011, section 1.1), as in ``torch.optim.Adagrad``:

    g ← g + weight_decay · θ
    s ← s + g²,    s starting at ``initial``
    θ ← θ − lr / (1 + (t − 1) lr_decay) · g / (√s + eps)

State: ``{"steps": t, "sum": [s per tensor]}``. The state starts at 0 and ``initial`` is added where s is read,
so that a level above may move it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, positive


class Adagrad(Strategy):
    """Gradients divided by the root of the sum of their squares: a rate that falls by itself."""

    kernel = "recopt.optim.kernels.adagrad:AdagradKernel"
    formula = "recopt.optim.kernels.adagrad:AdagradFormula"

    lr = positive(0.01, "learning rate", above=1.0)
    eps = positive(1e-10, "added to the root", off=0.0)
    initial = positive(0.0, "the sum of squares before the first step", off=0.0)
    lr_decay = positive(0.0, "how fast the learning rate falls as 1 / (1 + (t − 1) lr_decay); 0: not", off=0.0)
    weight_decay = positive(0.0, "coefficient of an L2 penalty, added to the gradient; 0: none", off=0.0)

    def init(self, point: Params) -> State:
        """Zero sums, shaped as ``point``, before the first step."""
        return {"steps": 0, "sum": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        lr, eps, initial = self.lr, self.eps, self.initial
        if self.on("weight_decay"):
            decay = self.weight_decay
            grads = [g + decay * p for g, p in zip(grads, point, strict=True)]
        rate = lr / (1 + state["steps"] * self.lr_decay) if self.on("lr_decay") else lr
        total = [s + g * g for s, g in zip(state["sum"], grads, strict=True)]
        # The clamp cuts the root's infinite slope at 0 (times a zero slope it would be NaN); beside eps it is unseen.
        roots = [(s + initial).clamp_min(torch.finfo(s.dtype).tiny).sqrt() for s in total]
        deltas = [-rate * g / (r + eps) for g, r in zip(grads, roots, strict=True)]
        return deltas, {"steps": state["steps"] + 1, "sum": total}
