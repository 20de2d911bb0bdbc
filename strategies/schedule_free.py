"""Schedule-free Adam: the mean of the iterates in the place of a schedule that lets the rate fall.

Defazio et al. 2024 (2405.15682), algorithm 1 (AdamW): z goes Adam's way without a mean of gradients, x is the mean of
all z, weighted by the square of the largest rate so far, and gradients are taken between the two, at y, the point:

    v ← β2 v + (1 − β2) g²,    z ← z − lr (g / (√v / √(1 − β2ᵗ) + eps) + weight_decay · y)
    w = max lr²,   c = w / Σ w,   x ← (1 − c) x + c z,   y ← (1 − β1) z + β1 x

The model holds y while it is trained, and is measured and used at x (``eval_point``), a little further in.

State: ``{"steps": t, "fast": [z], "average": [x], "square": [v], "largest": the largest rate so far, "weight": Σ w}``.
"""

from __future__ import annotations

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, positive, unit


class ScheduleFree(Rule):
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

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """z ← z − lr (g / (√v / √(1 − β2ᵗ) + eps) + weight_decay · y), and x as the mean of all z."""
        lr, steps = hyper["lr"], state["steps"] + 1
        square, rate = ops.lerp_square(state["square"], grads, hyper["beta2"]), -lr
        largest = ops.larger(state["largest"], lr)
        weight = state["weight"] + largest**2
        first = ops.differentiates and steps == 1
        if first:  # The mean is then the gradient's own square whatever beta2 is: see adam.
            roots = ops.roots(ops.mul(grads, grads), hyper["eps"])
        else:
            correction = ops.sqrt(1 - hyper["beta2"] ** steps)
            roots, rate = ops.roots(square, correction * hyper["eps"]), -lr * correction
        fast = ops.decay_add(state["fast"], ops.mul(grads, rate), 1.0, over=roots)
        if self.on("weight_decay"):
            fast = ops.add(fast, point, -lr * hyper["weight_decay"])
        # The mean of one is that one, and not what rounding makes of it.
        average = fast if first else ops.lerp(state["average"], fast, largest**2 / weight)
        columns = {"fast": fast, "average": average, "square": square}
        return {"steps": steps, **columns, "largest": largest, "weight": weight}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """(1 − β1) z + β1 x − y."""
        beta1 = hyper["beta1"]
        return [Term(-1.0, point), Term(1 - beta1, state["fast"]), Term(beta1, state["average"])]
