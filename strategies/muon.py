"""Muon: orthogonalized momentum for matrices, Adam for the rest.

Jordan et al. 2024 ("Muon", kellerjordan.github.io/posts/muon), scaled as by Liu et al. 2025 (2502.16982, equation 4),
so that one rate, about Adam's, serves all tensors. For a matrix of A rows and B columns, at step t = 1, 2, …:

    M ← momentum · M + (1 − momentum) G,    N = momentum · M + (1 − momentum) G    (without ``nesterov``: N = M)
    O = five rounds of Newton and Schulz from N / ‖N‖:  X ← 3.4445 X + (2.0315 (X Xᵀ)² − 4.775 X Xᵀ) X
    θ ← θ − lr · weight_decay · θ − lr · 0.2 √max(A, B) · O

It is that of ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, but that torch multiplies in bfloat16; with
``adjust_lr_fn="original"`` the factor before O is √max(1, A / B). All other tensors go Adam's way (see adam).

A matrix is a tensor of two or more dimensions, flattened from the second on (so kernels of convolutions are), that has
more than one row and column then. Embeddings and the last layer are matrices by that; their authors leave these to
Adam: put them into a group with a ``stack`` of its own.

State: ``{"steps": t, "mean": [M, or Adam's m], "second": [Adam's v, or of a matrix its last step at lr = 1]}``.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, option, positive, unit
from recopt.toolkit.matrices import by_kind, orthogonal_steps


class Muon(Rule):
    """Steps along the orthogonalized mean of gradients for matrices, Adam's for the rest."""

    linear: ClassVar[str | None] = "lr"
    whole: ClassVar[bool] = True
    split = False

    lr = positive(0.001, "learning rate", above=0.05)
    momentum = unit(0.95, "decay of the mean of a matrix's gradients; 0: none", off=0.0)
    beta1 = unit(0.9, "decay of the mean of other gradients; 0: none", off=0.0)
    beta2 = unit(0.999, "decay of the mean of other gradients' squares")
    eps = positive(1e-8, "added to the root mean square", off=0.0)
    weight_decay = positive(0.0, "decoupled weight decay; 0: none", off=0.0)
    nesterov = option(True, "look ahead along the mean of a matrix's gradients")
    adjust_lr_fn = option("match_rms_adamw", "size of a matrix's step", choices=("match_rms_adamw", "original"))

    def init(self, point: Params) -> State:
        """Zeros, shaped as ``point``, before the first step."""
        return {"steps": 0, **{name: [torch.zeros_like(p) for p in point] for name in ("mean", "second")}}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """M and what it gives for matrices, Adam's m and v for the rest."""
        steps, original = state["steps"] + 1, self.adjust_lr_fn == "original"

        def matrices(g: Column, mean: Column, _: Column) -> tuple[Column, Column]:
            mean = ops.lerp(mean, g, 1 - hyper["momentum"])
            if ops.differentiates and steps == 1:  # which has the direction of the gradient whatever momentum is
                return mean, orthogonal_steps(g, original)
            ahead = ops.add(g, ops.add(mean, g, -1.0), hyper["momentum"]) if self.nesterov else mean
            return mean, orthogonal_steps(ahead, original)

        def rest(g: Column, mean: Column, square: Column) -> tuple[Column, Column]:
            return ops.lerp(mean, g, 1 - hyper["beta1"]), ops.lerp_square(square, g, hyper["beta2"])

        mean, second = by_kind(matrices, rest, grads, state["mean"], state["second"])
        return {"steps": steps, "mean": mean, "second": second}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−lr · weight_decay · θ − lr · the step of a matrix, or (m / (1 − β1ᵗ)) / (√v / √(1 − β2ᵗ) + eps)."""
        lr, steps = hyper["lr"], state["steps"]

        def rest(g: Column, mean: Column, square: Column) -> tuple[Column]:
            if ops.differentiates and steps == 1:  # both means are then the gradient's own: see adam
                return (ops.div(g, ops.roots(ops.mul(g, g), hyper["eps"])),)
            correction = ops.sqrt(1 - hyper["beta2"] ** steps)
            spread = ops.roots(square, correction * hyper["eps"])
            return (ops.mul(ops.div(mean, spread), correction / (1 - hyper["beta1"] ** steps)),)

        (step,) = by_kind(lambda g, mean, second: (second,), rest, grads, state["mean"], state["second"])
        shrink = [Term(-lr * hyper["weight_decay"], point)] if self.on("weight_decay") else []
        return [*shrink, Term(-lr, step)]
