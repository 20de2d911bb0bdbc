"""Adam, with weight decay either decoupled (AdamW) or as an L2 penalty.

Formula, elementwise, at step t = 1, 2, … (Kingma & Ba 2015, 1412.6980, algorithm 1; decoupled decay:
Loshchilov & Hutter 2019, 1711.05101, algorithm 2), as in ``torch.optim.AdamW`` and, with
``decoupled_weight_decay=False``, ``torch.optim.Adam``:

    m ← β1 m + (1 − β1) g,    v ← β2 v + (1 − β2) g²
    θ ← θ − lr · weight_decay · θ − lr · (m / (1 − β1ᵗ)) / (√v / √(1 − β2ᵗ) + eps)

State: ``{"steps": t, "mean": [m per tensor], "square": [v per tensor]}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, option, positive, unit


class FusedAdam:
    """The kernel that ``torch.optim.Adam(fused=True)`` calls: one pass over memory, and the text takes six.

    The derivatives of an update by lr, β1, β2 and eps take thirteen passes, and some forty where the text is taped.
    """

    @staticmethod
    def step(rule: Rule, point: Column, grads: Column, state: State, hyper: Hypers, scale: float) -> bool:
        """Adam's step in place on dense tensors of one dtype, on a CPU or a CUDA device; False for others."""
        columns = (point, grads, state["mean"], state["square"])
        first = point[0]
        if first.device.type not in ("cpu", "cuda") or rule.on("weight_decay") or not hyper["eps"]:
            return False
        if not all(t.dtype == first.dtype and t.is_contiguous() for column in columns for t in column):
            return False
        state["steps"] += 1
        steps = [torch.full((), state["steps"], dtype=torch.float32, device=first.device)] * len(point)
        torch._fused_adam_(
            *columns, [], steps, lr=scale * hyper["lr"], beta1=hyper["beta1"], beta2=hyper["beta2"], weight_decay=0.0,
            eps=hyper["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        return True

    @staticmethod
    def differentiates(rule: Rule, hyper: Hypers) -> bool:
        """True without weight decay, for decays that a mean can be divided by."""
        return not rule.on("weight_decay") and bool(hyper["eps"]) and min(hyper["beta1"], hyper["beta2"]) >= 0.5

    @staticmethod
    def measure(
        rule: Rule, cotangents: Params, grads: Params, state: State, hyper: Hypers
    ) -> dict[str, list[torch.Tensor]]:
        """Sums over c / d, with d = √v + eps √(1 − β2ᵗ), and over q = m c / d²."""
        mean, square, first = state["mean"], state["square"], state["steps"] == 1
        root = torch._foreach_sqrt(square)
        torch._foreach_clamp_min_(root, torch.finfo(root[0].dtype).tiny ** 0.5)
        spread = torch._foreach_add(root, math.sqrt(1 - hyper["beta2"] ** state["steps"]) * hyper["eps"])
        beside = torch._foreach_div(cotangents, spread)
        # m before this step less g is (m − g) / β1, and v before it less g² is (v − g²) / β2.
        sums = {"mean": _dots(mean, beside), "turn": [] if first else _dots(torch._foreach_sub(mean, grads), beside)}
        torch._foreach_mul_(beside, mean)
        torch._foreach_div_(beside, spread)
        sums["spread"] = [q.sum() for q in (beside if beside[0].is_cpu else [_flat(beside)])]
        if not first:
            gap = torch._foreach_addcmul(square, grads, grads, -1)
            torch._foreach_div_(gap, root)
            sums["gap"] = _dots(gap, beside)
        return sums

    @staticmethod
    def slopes(rule: Rule, sums: Mapping[str, float], state: State, hyper: Hypers) -> dict[str, float]:
        """⟨∂u/∂h, c⟩ for each hyperparameter h; those by the betas are 0 at the first step, whatever they are."""
        lr, beta1, beta2, eps, t = hyper["lr"], hyper["beta1"], hyper["beta2"], hyper["eps"], state["steps"]
        correction, rest = math.sqrt(1 - beta2**t), 1 - beta1**t
        along = sums["mean"]
        found = {"lr": -correction / rest * along, "eps": lr * correction**2 / rest * sums["spread"]}
        if t == 1:
            return {**found, "beta1": 0.0, "beta2": 0.0}
        turn = sums["turn"] / beta1 + along * t * beta1 ** (t - 1) / rest
        slower = -t * beta2 ** (t - 1) / (2 * correction)
        wider = sums["gap"] / (2 * beta2) + slower * eps * sums["spread"]
        return {
            **found,
            "beta1": -lr * correction / rest * turn,
            "beta2": -lr / rest * (slower * along - correction * wider),
        }


def _dots(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Parts of ⟨a, b⟩: tensor by tensor on a CPU; else one, as a device is started for each."""
    if a[0].is_cpu or len({x.dtype for x in a}) > 1:
        return [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]
    return [torch.dot(_flat(a), _flat(b))]


def _flat(column: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([x.reshape(-1) for x in column])


class Adam(Rule):
    """Adam: steps of about the learning rate whatever the gradient's scale, with optional weight decay."""

    linear: ClassVar[str | None] = "lr"
    accelerator = FusedAdam

    lr = positive(0.001, "learning rate", above=0.05)
    beta1 = unit(0.9, "decay of the running mean of gradients; 0: none", off=0.0)
    beta2 = unit(0.999, "decay of the running mean of squared gradients")
    eps = positive(1e-8, "added to the root mean square; 0 makes the rule blind to the gradient's scale", off=0.0)
    weight_decay = positive(0.0, "weight decay; 0: none", off=0.0)
    decoupled_weight_decay = option(True, "decay the weights themselves (AdamW) and not by a penalty in the gradient")

    def init(self, point: Params) -> State:
        """Zero means, shaped as ``point``, before the first step."""
        return {
            "steps": 0,
            "mean": [torch.zeros_like(p) for p in point],
            "square": [torch.zeros_like(p) for p in point],
        }

    def penalty(self) -> str | None:
        """The L2 penalty, where weight decay is on and not decoupled."""
        return "weight_decay" if self.on("weight_decay") and not self.decoupled_weight_decay else None

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """m ← β1 m + (1 − β1) g,  v ← β2 v + (1 − β2) g²."""
        return {
            "steps": state["steps"] + 1,
            "mean": ops.lerp(state["mean"], grads, 1 - hyper["beta1"]),
            "square": ops.lerp_square(state["square"], grads, hyper["beta2"]),
        }

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−lr · weight_decay · θ − lr · (m / (1 − β1ᵗ)) / (√v / √(1 − β2ᵗ) + eps)."""
        lr, steps = hyper["lr"], state["steps"]
        decays = self.on("weight_decay") and self.decoupled_weight_decay
        shrink = [Term(-lr * hyper["weight_decay"], point)] if decays else []
        if ops.differentiates and steps == 1:
            # Both means are then the gradient's own whatever the betas are. Written out, since the rounding errors of
            # a derivative that is 0 would be a signal of full size after normalizing.
            return [*shrink, Term(-lr, grads, ops.roots(ops.mul(grads, grads), hyper["eps"]))]
        correction = ops.sqrt(1 - hyper["beta2"] ** steps)
        spread = ops.roots(state["square"], correction * hyper["eps"])
        return [*shrink, Term(-lr * correction / (1 - hyper["beta1"] ** steps), state["mean"], spread)]
