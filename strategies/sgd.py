"""Stochastic gradient descent with momentum, Nesterov's form and coupled weight decay.

Formula, elementwise, as in ``torch.optim.SGD`` without dampening (Sutskever et al. 2013):

    g ← g + weight_decay · θ
    b ← momentum · b + g
    θ ← θ − lr · b                        (with ``nesterov``: θ ← θ − lr · (g + momentum · b))

State: ``{"momentum": [b, one tensor per tensor of the point]}``, or ``{}`` where momentum is off.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from recopt import Column, Hypers, Ops, Params, RecoptError, Rule, State, Term, option, positive, unit


class Sgd(Rule):
    """Gradient descent with momentum (plain or Nesterov's) and weight decay.

    Raises:
        RecoptError: if ``nesterov`` is asked for without momentum.
    """

    linear: ClassVar[str | None] = "lr"

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

    def penalty(self) -> str | None:
        """The L2 penalty, where it is on."""
        return "weight_decay" if self.on("weight_decay") else None

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """b ← momentum · b + g."""
        return {name: ops.decay_add(b, grads, hyper["momentum"]) for name, b in state.items()}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−lr · b."""
        lr = hyper["lr"]
        if not self.on("momentum"):
            return [Term(-lr, grads)]
        if self.nesterov:
            return [Term(-lr, grads), Term(-lr * hyper["momentum"], state["momentum"])]
        return [Term(-lr, state["momentum"])]
