"""Closed forms of strategies/rmsprop.py (without centring and penalty).

With r = √v, D = r + eps, q = g/D, b = μ b' + q: u = −lr b. With the state before held fixed
∂v/∂decay = (v − g²)/decay and ∂b/∂μ = (b − q)/μ, hence with w = c/D and z = g w/D:

    ⟨∂u/∂decay, c⟩ = lr/(2 decay) (⟨z,r⟩ − ⟨z,g²/r⟩),   ⟨∂u/∂eps, c⟩ = lr Σz,   ⟨∂u/∂μ, c⟩ = −lr (⟨b,c⟩ − ⟨g,w⟩)/μ
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ...contracts.strategy import Params, State, Strategy
from ..arithmetic import LEAST_ROOT, chunks, dots, roots
from ..kernel import Sums, Values


class RmspropKernel:
    """RMSprop on tensors."""

    linear = True

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.momentum = strategy.on("momentum")

    @staticmethod
    def supports(strategy: Strategy) -> bool:
        """Neither centring nor the L2 penalty: their derivatives go through more than the last gradient."""
        return not strategy.centered and not strategy.on("weight_decay")

    def begin(self, point: Params, moved: frozenset[str]) -> State:
        """The strategy's state, how many steps were made, and room for the last gradient."""
        state = {**self.strategy.init(point), "made": 0}
        if moved:
            state["grads"] = [torch.zeros_like(p) for p in point]
        return state

    def step(self, point: Params, grads: Params, state: State, value: Values, scale: float) -> None:
        """θ += scale · u."""
        rate, decay = -scale * value["lr"], value["decay"]
        state["made"] += 1
        buffers, kept = state.get("momentum", grads), state.get("grads", grads)
        for p, g, v, b, k in chunks(point, grads, state["square"], buffers, kept):
            if "grads" in state:
                torch._foreach_copy_(k, g)
            torch._foreach_mul_(v, decay)
            torch._foreach_addcmul_(v, g, g, 1 - decay)
            divided = roots(v)
            torch._foreach_add_(divided, value["eps"])
            if self.momentum:
                torch._foreach_mul_(b, value["momentum"])
                torch._foreach_addcdiv_(b, g, divided)
                torch._foreach_add_(p, b, alpha=rate)
            else:
                torch._foreach_addcdiv_(p, g, divided, rate)

    def measure(self, point: Params, cotangents: Params, state: State, value: Values, scale: float) -> Sums:
        """The sums of the formulas above."""
        sums: Sums = {"gw": [], "z": [], "zr": [], "zg": [], "b": []}
        for c, v, g in chunks(cotangents, state["square"], state["grads"]):
            r = roots(v)
            divided = torch._foreach_add(r, value["eps"])
            w = torch._foreach_div(c, divided)
            sums["gw"] += dots(g, w)
            torch._foreach_div_(w, divided)
            torch._foreach_mul_(w, g)
            sums["z"] += [z.sum() for z in w]
            sums["zr"] += dots(w, r)
            share = torch._foreach_div(g, r)
            torch._foreach_mul_(share, g)
            sums["zg"] += dots(w, share)
        if self.momentum:
            sums["b"] = dots(state["momentum"], cotangents)
        return sums

    def pull(self, sums: Mapping[str, float], state: State, value: Values, scale: float) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        out = _pull(sums, value, scale)
        if self.momentum:
            # Exactly 0 while the buffer before was: not the rounding error of a difference.
            before = (sums["b"] - sums["gw"]) / value["momentum"] if state["made"] > 1 else 0.0
            out |= {"lr": -scale * sums["b"], "momentum": -scale * value["lr"] * before}
        return out

    def last(self, point: Params, state: State, value: Values, scale: float) -> Params | None:
        """u again, if the last gradient is kept."""
        if "grads" not in state and not self.momentum:
            return None
        rate = -scale * value["lr"]
        if self.momentum:
            return list(torch._foreach_mul(state["momentum"], rate))
        divided = roots(state["square"])
        torch._foreach_add_(divided, value["eps"])
        out = torch._foreach_div(state["grads"], divided)
        torch._foreach_mul_(out, rate)
        return list(out)


def _pull(sums: Mapping[str, float], value: Values, scale: float) -> dict[str, float]:
    """Without momentum."""
    lr, decay = scale * value["lr"], value["decay"]
    slope = lr / (2 * decay) * (sums["zr"] - sums["zg"])
    return {"lr": -scale * sums["gw"], "eps": lr * sums["z"], "decay": slope}


class RmspropFormula:
    """RMSprop on a few numbers."""

    def __init__(self, strategy: Strategy) -> None:
        self.momentum = strategy.on("momentum")

    supports = RmspropKernel.supports

    def begin(self, size: int) -> State:
        """Zero means."""
        return {name: [0.0] * size for name in ["square"] + ["momentum"] * self.momentum}

    def step(self, point: Sequence[float], grads: Sequence[float], state: State, value: Values) -> list[float]:
        """−lr · b."""
        rate, decay, eps, sqrt = -value["lr"], value["decay"], value["eps"], math.sqrt
        square, rows, steps = state["square"], [], []
        for i, g in enumerate(grads):
            v = square[i] = decay * square[i] + (1 - decay) * g * g
            r = sqrt(v) or LEAST_ROOT
            rows.append((g, r, r + eps))
            steps.append(g / (r + eps))
        state["rows"] = rows
        if self.momentum:
            mu, before = value["momentum"], state["momentum"]
            state["before"] = before
            steps = state["momentum"] = [mu * b + s for b, s in zip(before, steps, strict=True)]
        return [rate * s for s in steps]

    def pull(self, cotangents: Sequence[float], state: State, value: Values) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        gw = total = zr = zg = 0.0
        for (g, r, d), c in zip(state["rows"], cotangents, strict=True):
            w = c / d
            z = g * w / d
            gw += g * w
            total += z
            zr += z * r
            zg += z * g * g / r
        out = _pull({"gw": gw, "z": total, "zr": zr, "zg": zg}, value, 1.0)
        if self.momentum:
            out["lr"] = -sum(b * c for b, c in zip(state["momentum"], cotangents, strict=True))
            before = sum(b * c for b, c in zip(state["before"], cotangents, strict=True))
            out["momentum"] = -value["lr"] * before
        return out
