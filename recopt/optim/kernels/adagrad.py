"""Closed forms of strategies/adagrad.py (without penalty).

With n steps before this one, ρ = lr/(1 + n·lr_decay), r = √(s + initial), D = r + eps: u = −ρ g/D. With
w = c/D and z = g w/D:  ⟨∂u/∂eps, c⟩ = ρ Σz,  ⟨∂u/∂initial, c⟩ = ρ Σ z/(2r),
⟨∂u/∂lr_decay, c⟩ = ρ n/(1 + n·lr_decay) ⟨g,w⟩.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ...contracts.strategy import Params, State, Strategy
from ..arithmetic import LEAST_ROOT, chunks, dots, roots
from ..kernel import Sums, Values


class AdagradKernel:
    """Adagrad on tensors."""

    linear = True

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    @staticmethod
    def supports(strategy: Strategy) -> bool:
        """Not the L2 penalty: its derivative goes through the sum as well."""
        return not strategy.on("weight_decay")

    def begin(self, point: Params, moved: frozenset[str]) -> State:
        """The strategy's state, and room for the last gradient."""
        state = self.strategy.init(point)
        if moved:
            state["grads"] = [torch.zeros_like(p) for p in point]
        return state

    def step(self, point: Params, grads: Params, state: State, value: Values, scale: float) -> None:
        """θ += scale · u."""
        rate = -scale * _rate(state["steps"], value)
        state["steps"] += 1
        for p, g, s, k in chunks(point, grads, state["sum"], state.get("grads", grads)):
            if "grads" in state:
                torch._foreach_copy_(k, g)
            torch._foreach_addcmul_(s, g, g)
            torch._foreach_addcdiv_(p, g, self._scaled(s, value)[1], rate)

    @staticmethod
    def _scaled(total: Params, value: Values) -> tuple[Params, Params]:
        """r and D."""
        r = roots(torch._foreach_add(total, value["initial"]) if value["initial"] else total)
        return r, list(torch._foreach_add(r, value["eps"]))

    def measure(self, point: Params, cotangents: Params, state: State, value: Values, scale: float) -> Sums:
        """The sums of the formulas above."""
        sums: Sums = {"gw": [], "z": [], "zi": []}
        for c, s, g in chunks(cotangents, state["sum"], state["grads"]):
            r, divided = self._scaled(s, value)
            w = torch._foreach_div(c, divided)
            sums["gw"] += dots(g, w)
            torch._foreach_div_(w, divided)
            torch._foreach_mul_(w, g)
            sums["z"] += [z.sum() for z in w]
            if value["initial"]:
                torch._foreach_div_(w, r)
                sums["zi"] += [z.sum() for z in w]
        return sums

    def pull(self, sums: Mapping[str, float], state: State, value: Values, scale: float) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        return _pull(sums, state["steps"], value, scale)

    def last(self, point: Params, state: State, value: Values, scale: float) -> Params | None:
        """u again, if the last gradient is kept."""
        if "grads" not in state:
            return None
        out = torch._foreach_div(state["grads"], self._scaled(state["sum"], value)[1])
        torch._foreach_mul_(out, -scale * _rate(state["steps"] - 1, value))
        return list(out)


def _rate(before: int, value: Values) -> float:
    return value["lr"] / (1 + before * value["lr_decay"])


def _pull(sums: Mapping[str, float], steps: int, value: Values, scale: float) -> dict[str, float]:
    before, gw = steps - 1, sums["gw"]
    rate = scale * _rate(before, value)
    return {
        "lr": -scale / (1 + before * value["lr_decay"]) * gw,
        "eps": rate * sums["z"],
        "initial": rate * sums["zi"] / 2,
        "lr_decay": rate * before / (1 + before * value["lr_decay"]) * gw,
    }


class AdagradFormula:
    """Adagrad on a few numbers."""

    def __init__(self, strategy: Strategy) -> None: ...

    supports = AdagradKernel.supports

    def begin(self, size: int) -> State:
        """Zero sums."""
        return {"steps": 0, "sum": [0.0] * size}

    def step(self, point: Sequence[float], grads: Sequence[float], state: State, value: Values) -> list[float]:
        """−ρ g/D."""
        rate, eps, initial = -_rate(state["steps"], value), value["eps"], value["initial"]
        state["steps"] += 1
        total, rows, deltas = state["sum"], [], []
        for i, g in enumerate(grads):
            total[i] += g * g
            r = math.sqrt(total[i] + initial) or LEAST_ROOT
            rows.append((g, r, r + eps))
            deltas.append(rate * g / (r + eps))
        state["rows"] = rows
        return deltas

    def pull(self, cotangents: Sequence[float], state: State, value: Values) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        gw = total = zi = 0.0
        for (g, r, d), c in zip(state["rows"], cotangents, strict=True):
            w = c / d
            z = g * w / d
            gw += g * w
            total += z
            zi += z / r
        return _pull({"gw": gw, "z": total, "zi": zi}, state["steps"], value, 1.0)
