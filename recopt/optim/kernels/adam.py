"""Closed forms of strategies/adam.py.

With c1 = 1 − β1ᵗ, κ = √(1 − β2ᵗ), r = √v, D = r/κ + eps: u = −(lr/c1) m/D − lr λ θ'. With the state before
held fixed, ∂m/∂β1 = m' − g = (m − g)/β1 and ∂v/∂β2 = v' − g² = (v − g²)/β2, hence, for a cotangent c,
with w = c/D and z = m w/D (all sums over all elements):

    ⟨∂u/∂lr, c⟩  = ⟨u, c⟩ / lr
    ⟨∂u/∂β1, c⟩  = −lr/(c1 β1) (⟨m,w⟩ − ⟨g,w⟩) − lr t β1ᵗ⁻¹/c1² ⟨m,w⟩
    ⟨∂u/∂β2, c⟩  = lr/(2 c1 κ) [(⟨z,r⟩ − ⟨z,g²/r⟩)/β2 + ⟨z,r⟩ t β2ᵗ⁻¹/κ²]
    ⟨∂u/∂eps, c⟩ = lr/c1 Σz,        ⟨∂u/∂λ, c⟩ = −lr ⟨θ',c⟩,  θ' = (θ + (lr/c1) m/D)/(1 − lr λ)

Where a beta is moved it needs the last gradient besides m and v: one copy of the parameters over torch.optim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...contracts.strategy import Params, State, Strategy
from ..arithmetic import LEAST_ROOT, chunks, dots, roots
from ..kernel import Sums, Values


class AdamKernel:
    """Adam on tensors."""

    linear = True

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.decays = strategy.on("weight_decay")
        self.moved: frozenset[str] = frozenset()

    @staticmethod
    def supports(strategy: Strategy) -> bool:
        """Not the L2 penalty: its derivative goes through both means."""
        return bool(strategy.decoupled) or not strategy.on("weight_decay")

    def begin(self, point: Params, moved: frozenset[str]) -> State:
        """The strategy's state, and room for the last gradient if a beta is moved."""
        state, self.moved = self.strategy.init(point), moved
        if moved & {"beta1", "beta2"}:
            state["grads"] = [torch.zeros_like(p) for p in point]
        return state

    def step(self, point: Params, grads: Params, state: State, value: Values, scale: float) -> None:
        """θ += scale · u."""
        t = state["steps"] = state["steps"] + 1
        beta1, beta2, lr = value["beta1"], value["beta2"], scale * value["lr"]
        rate, correction = -lr / (1 - beta1**t), math.sqrt(1 - beta2**t)
        for p, g, m, v, k in chunks(point, grads, state["mean"], state["square"], state.get("grads", grads)):
            if "grads" in state:
                torch._foreach_copy_(k, g)
            if value["eps"] and not self.decays and _fusible(p, g, m, v):
                # What torch.optim.Adam(fused=True) calls: the six lines below in one pass.
                steps = [torch.tensor(float(t))] * len(p)
                torch._fused_adam_(p, g, m, v, [], steps, lr=lr, beta1=beta1, beta2=beta2, weight_decay=0.0,
                                   eps=value["eps"], amsgrad=False, maximize=False)  # fmt: skip
                continue
            torch._foreach_lerp_(m, g, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, g, g, 1 - beta2)
            if self.decays:
                torch._foreach_mul_(p, 1 - lr * value["weight_decay"])
            torch._foreach_addcdiv_(p, m, self._scaled(v, correction * value["eps"]), rate * correction)

    @staticmethod
    def _scaled(square: Params, eps: float) -> Params:
        """κ D = r + κ eps, new tensors."""
        r: Any = torch._foreach_sqrt(square)
        if eps:
            torch._foreach_add_(r, eps)
        else:
            torch._foreach_clamp_min_(r, torch.finfo(r[0].dtype).tiny ** 0.5)
        return list(r)

    def measure(self, point: Params, cotangents: Params, state: State, value: Values, scale: float) -> Sums:
        """The sums of the formulas above that are needed."""
        sums: Sums = {"mw": [], "gw": [], "z": [], "zg": [], "p": []}
        eps = math.sqrt(1 - value["beta2"] ** state["steps"]) * value["eps"]
        kept = state.get("grads", cotangents)
        for p, c, m, v, g in chunks(point, cotangents, state["mean"], state["square"], kept):
            r = roots(v) if "beta2" in self.moved else []
            divided: Any = torch._foreach_add(r, eps) if r else self._scaled(v, eps)
            w = torch._foreach_div(c, divided)
            sums["mw"] += dots(m, w)
            if "beta1" in self.moved:
                sums["gw"] += dots(g, w)
            if self.decays:
                sums["p"] += dots(p, c)
            if not self.moved & {"beta2", "eps"}:
                continue
            torch._foreach_div_(w, divided)
            torch._foreach_mul_(w, m)
            sums["z"] += [z.sum() for z in w]
            if "beta2" in self.moved:
                # Where v is 0 so is g, and r is not: the quotient is then 0 as well.
                torch._foreach_mul_(w, g)
                torch._foreach_div_(w, r)
                sums["zg"] += dots(w, g)
        return sums

    def pull(self, sums: Mapping[str, float], state: State, value: Values, scale: float) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        # Measured with κ D for D, so w is short of κ and z of κ²; and r = κ D − κ eps gives ⟨z, r⟩ for nothing.
        k = math.sqrt(1 - value["beta2"] ** state["steps"])
        mw, z = sums["mw"], sums["z"]
        full = {"mw": k * mw, "gw": k * sums["gw"], "z": k * k * z, "zr": k * k * (mw - k * value["eps"] * z),
                "zg": k * k * sums["zg"]}  # fmt: skip
        return _pull(full, sums["p"], state["steps"], value, scale, self.decays)

    def last(self, point: Params, state: State, value: Values, scale: float) -> Params:
        """u again."""
        t, lr = state["steps"], scale * value["lr"]
        rate = -lr / (1 - value["beta1"] ** t)
        k = math.sqrt(1 - value["beta2"] ** t)
        adaptive = torch._foreach_div(state["mean"], self._scaled(state["square"], k * value["eps"]))
        torch._foreach_mul_(adaptive, rate * k)
        if not self.decays:
            return list(adaptive)
        shrink = lr * value["weight_decay"]
        return [a - shrink / (1 - shrink) * (p - a) for a, p in zip(adaptive, point, strict=True)]


def _fusible(*columns: Params) -> bool:
    """Whether all are dense CPU tensors of one dtype, laid out alike."""
    first = columns[0][0]
    return first.device.type == "cpu" and all(
        t.dtype == first.dtype and t.device == first.device and t.is_contiguous() for c in columns for t in c
    )


def _pull(
    sums: Mapping[str, float], point: float, t: int, value: Values, scale: float, decays: bool
) -> dict[str, float]:
    """The formulas above; ``point`` is ⟨θ, c⟩ with θ *after* the step."""
    beta1, beta2, lr = value["beta1"], value["beta2"], scale * value["lr"]
    c1, k2 = 1 - beta1**t, 1 - beta2**t
    rate, k, mw = lr / c1, math.sqrt(k2), sums["mw"]
    along = -rate * mw
    out = {"lr": -scale / c1 * mw, "eps": rate * sums["z"]}
    # At the first step both means are the gradient's own whatever the betas are: exactly 0, not its rounding error.
    out["beta1"] = out["beta2"] = 0.0
    if beta1 and t > 1:
        out["beta1"] = -rate / beta1 * (mw - sums["gw"]) + along * t * beta1 ** (t - 1) / c1
    if beta2 and t > 1:
        zr = sums["zr"]
        out["beta2"] = rate / (2 * k) * ((zr - sums["zg"]) / beta2 + zr * t * beta2 ** (t - 1) / k2)
    if decays:
        before = (point - along) / (1 - lr * value["weight_decay"])
        out["weight_decay"] = -lr * before
        out["lr"] -= scale * value["weight_decay"] * before
    return out


class AdamFormula:
    """Adam on a few numbers."""

    def __init__(self, strategy: Strategy) -> None:
        self.decays = strategy.on("weight_decay")

    supports = AdamKernel.supports

    def begin(self, size: int) -> State:
        """Zero means."""
        return {"steps": 0, "mean": [0.0] * size, "square": [0.0] * size}

    def step(self, point: Sequence[float], grads: Sequence[float], state: State, value: Values) -> list[float]:
        """−(lr/c1) m/D − lr λ θ."""
        t = state["steps"] = state["steps"] + 1
        beta1, beta2, lr, eps = value["beta1"], value["beta2"], value["lr"], value["eps"]
        rate, k, a1, a2 = -lr / (1 - beta1**t), math.sqrt(1 - beta2**t), 1 - beta1, 1 - beta2
        mean, square, sqrt = state["mean"], state["square"], math.sqrt
        rows, deltas = [], []
        for i, g in enumerate(grads):
            m = mean[i] = mean[i] + a1 * (g - mean[i])
            v = square[i] = beta2 * square[i] + a2 * g * g
            r = sqrt(v) or LEAST_ROOT
            d = r / k + eps
            rows.append((g, m, r, d))
            deltas.append(rate * m / d)
        state["rows"] = rows
        if self.decays:
            shrink = lr * value["weight_decay"]
            deltas = [d - shrink * p for d, p in zip(deltas, point, strict=True)]
            state["after"] = [d + p for d, p in zip(deltas, point, strict=True)]
        return deltas

    def pull(self, cotangents: Sequence[float], state: State, value: Values) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        mw = gw = total = zr = zg = 0.0
        for (g, m, r, d), c in zip(state["rows"], cotangents, strict=True):
            w = c / d
            y = m * w
            z = y / d
            mw += y
            gw += g * w
            total += z
            zr += z * r
            zg += z * g * g / r
        sums = {"mw": mw, "gw": gw, "z": total, "zr": zr, "zg": zg}
        point = sum(p * c for p, c in zip(state["after"], cotangents, strict=True)) if self.decays else 0.0
        return _pull(sums, point, state["steps"], value, 1.0, self.decays)
