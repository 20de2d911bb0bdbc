"""Stochastic gradient descent with momentum, Nesterov's form and coupled weight decay.

Formula, elementwise, as in ``torch.optim.SGD`` without dampening (Sutskever et al. 2013):

    g ← g + weight_decay · θ
    b ← momentum · b + g
    θ ← θ − lr · b                        (with ``nesterov``: θ ← θ − lr · (g + momentum · b))

State: ``{"momentum": [b, one tensor per tensor of the point]}``, or ``{}`` where momentum is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive, unit


class Sgd(Strategy):
    """Gradient descent with momentum (plain or Nesterov's) and weight decay.

    Raises:
        RecoptError: if ``nesterov`` is asked for without momentum.
    """

    kernel = "recopt.optim.kernels.sgd:SgdKernel"
    formula = "recopt.optim.kernels.sgd:SgdFormula"

    lr = positive(0.01, "learning rate", above=0.05)
    momentum = unit(0.0, "decay of the momentum buffer; 0: none", off=0.0)
    weight_decay = positive(0.0, "coefficient of an L2 penalty, added to the gradient; 0: none", off=0.0)
    nesterov = option(False, "look ahead along the momentum (needs momentum)")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.nesterov and not self.on("momentum"):
            raise RecoptError("sgd.nesterov needs momentum: give one, for example sgd(momentum=0.9, nesterov=true).")

    def init(self, point: Params) -> State:
        """Zero momentum, shaped as ``point``."""
        return {"momentum": [torch.zeros_like(p) for p in point]} if self.on("momentum") else {}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        step = -self.lr
        if self.on("weight_decay"):
            decay = self.weight_decay
            grads = [g + decay * p for g, p in zip(grads, point, strict=True)]
        if not self.on("momentum"):
            return [step * g for g in grads], state
        momentum = self.momentum
        buffers = [momentum * b + g for b, g in zip(state["momentum"], grads, strict=True)]
        ahead = buffers
        if self.nesterov:
            ahead = [g + momentum * b for g, b in zip(grads, buffers, strict=True)]
        return [step * a for a in ahead], {"momentum": buffers}
