"""RMSprop, with momentum, centring and coupled weight decay.

Formula, elementwise, as in ``torch.optim.RMSprop`` (Hinton 2012, lecture 6e; centred: Graves 2013, 1308.0850,
eq. 38-45):

    g ← g + weight_decay · θ
    v ← alpha · v + (1 − alpha) g²
    r = √v                                (with ``centered``: m ← alpha · m + (1 − alpha) g,  r = √(v − m²))
    b ← momentum · b + g / (r + eps)
    θ ← θ − lr · b

State: ``{"square": [v per tensor]}``, with ``"mean": [m …]`` where centred and ``"momentum": [b …]`` where momentum
is on.

Where rounding makes v − m² negative (a constant gradient), torch's rule gives NaN; here it counts as 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, option, positive, unit


class Rmsprop(Rule):
    """Gradients divided by a running root mean square, with optional momentum, centring and weight decay."""

    linear: ClassVar[str | None] = "lr"

    lr = positive(0.01, "learning rate", above=0.05)
    alpha = unit(0.99, "decay of the running mean of squared gradients")
    eps = positive(1e-8, "added to the root mean square", off=0.0)
    momentum = unit(0.0, "decay of the momentum buffer; 0: none", off=0.0)
    weight_decay = positive(0.0, "coefficient of an L2 penalty, added to the gradient; 0: none", off=0.0)
    centered = option(False, "divide by the standard deviation instead of the root mean square")

    def init(self, point: Params) -> State:
        """Zero means, shaped as ``point``, before the first step."""
        names = ["square"] + ["mean"] * self.centered + ["momentum"] * self.on("momentum")
        return {name: [torch.zeros_like(p) for p in point] for name in names}

    def penalty(self) -> str | None:
        """The L2 penalty, where it is on."""
        return "weight_decay" if self.on("weight_decay") else None

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """v ← alpha · v + (1 − alpha) g², and the means that are on."""
        after = {"square": ops.lerp_square(state["square"], grads, hyper["alpha"])}
        if self.centered:
            after["mean"] = ops.lerp(state["mean"], grads, 1 - hyper["alpha"])
        if self.on("momentum"):
            spread = self._spread(ops, after, hyper)
            after["momentum"] = ops.decay_add(state["momentum"], grads, hyper["momentum"], over=spread)
        return after

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−lr · b."""
        if self.on("momentum"):
            return [Term(-hyper["lr"], state["momentum"])]
        return [Term(-hyper["lr"], grads, self._spread(ops, state, hyper))]

    def _spread(self, ops: Ops, state: State, hyper: Hypers) -> Column:
        """r + eps."""
        square = state["square"]
        if self.centered:
            centred = ops.add(square, ops.mul(state["mean"], state["mean"]), -1.0)
            square = ops.at_least(centred, 0.0)
        return ops.roots(square, hyper["eps"])
