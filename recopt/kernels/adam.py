"""Closed forms of strategies/adam.py.

With c1 = 1 − β1ᵗ, κ = √(1 − β2ᵗ), r = √v, D = r/κ + eps: u = −(lr/c1) m/D − lr λ θ'. With the state before
held fixed, ∂m/∂β1 = m' − g = (m − g)/β1 and ∂v/∂β2 = v' − g² = (v − g²)/β2, hence, for a cotangent c,
with w = c/D and z = m w/D (all sums over all elements):

    ⟨∂u/∂lr, c⟩  = ⟨u, c⟩ / lr
    ⟨∂u/∂β1, c⟩  = −lr/(c1 β1) (⟨m,w⟩ − ⟨g,w⟩) − lr t β1ᵗ⁻¹/c1² ⟨m,w⟩
    ⟨∂u/∂β2, c⟩  = lr/(2 c1 κ) [(⟨z,r⟩ − ⟨z,g²/r⟩)/β2 + ⟨z,r⟩ t β2ᵗ⁻¹/κ²]
    ⟨∂u/∂eps, c⟩ = lr/c1 Σz,        ⟨∂u/∂λ, c⟩ = −lr ⟨θ',c⟩,  θ' = (θ + (lr/c1) m/D)/(1 − lr λ)

Needs the last gradient besides m and v: one copy of the parameters over torch.optim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ..dropin.kernel import Sums, Values
from ..strategy import Params, State, Strategy
from .arithmetic import chunks, dots, roots


class AdamKernel:
    """Adam on tensors."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.decays = strategy.on("weight_decay")
        self.moves = {name: strategy.on(name) for name in ("beta1", "beta2", "eps")}

    @staticmethod
    def supports(strategy: Strategy) -> bool:
        """Not the L2 penalty: its derivative goes through both means."""
        return bool(strategy.decoupled) or not strategy.on("weight_decay")

    def begin(self, point: Params, taped: bool) -> State:
        """The strategy's state, and room for the last gradient."""
        state = self.strategy.init(point)
        if taped:
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
            torch._foreach_lerp_(m, g, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, g, g, 1 - beta2)
            if self.decays:
                torch._foreach_mul_(p, 1 - lr * value["weight_decay"])
            torch._foreach_addcdiv_(p, m, self._scaled(v, correction, value["eps"])[1], rate)

    @staticmethod
    def _scaled(square: Params, correction: float, eps: float) -> tuple[Params, Params]:
        """r and D."""
        r = roots(square)
        divided = torch._foreach_div(r, correction)
        torch._foreach_add_(divided, eps)
        return r, list(divided)

    def measure(self, point: Params, cotangents: Params, state: State, value: Values, scale: float) -> Sums:
        """The sums of the formulas above that are needed."""
        sums: Sums = {"mw": [], "gw": [], "z": [], "zr": [], "zg": [], "p": []}
        correction = math.sqrt(1 - value["beta2"] ** state["steps"])
        for p, c, m, v, g in chunks(point, cotangents, state["mean"], state["square"], state["grads"]):
            r, divided = self._scaled(v, correction, value["eps"])
            w = torch._foreach_div(c, divided)
            sums["mw"] += dots(m, w)
            if self.moves["beta1"]:
                sums["gw"] += dots(g, w)
            if self.decays:
                sums["p"] += dots(p, c)
            if self.moves["beta2"] or self.moves["eps"]:
                torch._foreach_div_(w, divided)
                torch._foreach_mul_(w, m)
                sums["z"] += [z.sum() for z in w]
            if self.moves["beta2"]:
                sums["zr"] += dots(w, r)
                share = torch._foreach_div(g, r)
                torch._foreach_mul_(share, g)
                sums["zg"] += dots(w, share)
        return sums

    def pull(self, sums: Mapping[str, float], state: State, value: Values, scale: float) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        return _pull(sums, sums.get("p", 0.0), state["steps"], value, scale, self.decays)

    def last(self, point: Params, state: State, value: Values, scale: float) -> Params:
        """u again."""
        t, lr = state["steps"], scale * value["lr"]
        rate = -lr / (1 - value["beta1"] ** t)
        _, divided = self._scaled(state["square"], math.sqrt(1 - value["beta2"] ** t), value["eps"])
        adaptive = torch._foreach_div(state["mean"], divided)
        torch._foreach_mul_(adaptive, rate)
        if not self.decays:
            return list(adaptive)
        shrink = lr * value["weight_decay"]
        return [a - shrink / (1 - shrink) * (p - a) for a, p in zip(adaptive, point, strict=True)]


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
            r = sqrt(v) or 1e-154
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
