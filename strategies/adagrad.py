"""Adagrad: gradients divided by the root of the sum of all squares so far.

Formula, elementwise, at step t = 1, 2, … (Duchi et al. 2011, section 1.1), as in ``torch.optim.Adagrad``:

    g ← g + weight_decay · θ
    s ← s + g²,    s starting at ``initial_accumulator_value``
    θ ← θ − lr / (1 + (t − 1) lr_decay) · g / (√s + eps)

State: ``{"steps": t, "sum": [s per tensor]}``. The state starts at 0 and ``initial_accumulator_value`` is added where
s is read, so that a level above may move it.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, positive


class Adagrad(Rule):
    """Gradients divided by the root of the sum of their squares: a rate that falls by itself."""

    linear: ClassVar[str | None] = "lr"

    lr = positive(0.01, "learning rate", above=1.0)
    eps = positive(1e-10, "added to the root", off=0.0)
    initial_accumulator_value = positive(0.0, "the sum of squares before the first step", off=0.0)
    lr_decay = positive(0.0, "how fast the learning rate falls as 1 / (1 + (t − 1) lr_decay); 0: not", off=0.0)
    weight_decay = positive(0.0, "coefficient of an L2 penalty, added to the gradient; 0: none", off=0.0)

    def init(self, point: Params) -> State:
        """Zero sums, shaped as ``point``, before the first step."""
        return {"steps": 0, "sum": [torch.zeros_like(p) for p in point]}

    def penalty(self) -> str | None:
        """The L2 penalty, where it is on."""
        return "weight_decay" if self.on("weight_decay") else None

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """s ← s + g²."""
        return {"steps": state["steps"] + 1, "sum": ops.add_square(state["sum"], grads)}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−lr / (1 + (t − 1) lr_decay) · g / (√s + eps)."""
        total, start = state["sum"], "initial_accumulator_value"
        if self.on(start):
            total = ops.add(total, hyper[start])
        rate = -hyper["lr"]
        if self.on("lr_decay"):
            rate = rate / (1 + (state["steps"] - 1) * hyper["lr_decay"])
        return [Term(rate, grads, ops.roots(total, hyper["eps"]))]
