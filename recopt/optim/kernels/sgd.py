"""Closed forms of strategies/sgd.py: u = −lr · a, with a = g, the buffer b, or g + momentum · b (Nesterov).

With the state before held fixed, b = μ b' + g gives ∂b/∂μ = b' = (b − g)/μ, and ∂g/∂weight_decay = θ' = θ − u.
Needs the last gradient besides the strategy's own state: one copy of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...contracts.strategy import Params, State, Strategy
from ..arithmetic import chunks, dots
from ..kernel import Sums, Values


class SgdKernel:
    """SGD on tensors."""

    linear = True

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.momentum, self.decays = strategy.on("momentum"), strategy.on("weight_decay")
        self.nesterov: bool = strategy.nesterov  # type: ignore[assignment]
        self.moved: frozenset[str] = frozenset()

    def begin(self, point: Params, moved: frozenset[str]) -> State:
        """The strategy's state, and room for the last gradient where the buffer does not say enough."""
        state, self.moved = self.strategy.init(point), moved
        if moved and (not self.momentum or self.nesterov or "momentum" in moved):
            state["grads"] = [torch.zeros_like(p) for p in point]
        return state

    def step(self, point: Params, grads: Params, state: State, value: Values, scale: float) -> None:
        """θ += scale · u."""
        rate = -scale * value["lr"]
        none: Params = list(point)
        buffers, kept = state.get("momentum", none), state.get("grads", none)
        for p, g, b, k in chunks(point, grads, buffers, kept):
            if self.decays:
                g = list(torch._foreach_add(g, p, alpha=value["weight_decay"]))  # noqa: PLW2901
            if "grads" in state:
                torch._foreach_copy_(k, g)
            if not self.momentum:
                torch._foreach_add_(p, g, alpha=rate)
                continue
            torch._foreach_mul_(b, value["momentum"])
            torch._foreach_add_(b, g)
            if self.nesterov:
                torch._foreach_add_(p, g, alpha=rate)
                torch._foreach_add_(p, b, alpha=rate * value["momentum"])
            else:
                torch._foreach_add_(p, b, alpha=rate)

    def measure(self, point: Params, cotangents: Params, state: State, value: Values, scale: float) -> Sums:
        """⟨g, c⟩, ⟨b, c⟩ and ⟨θ, c⟩, where needed."""
        sums: Sums = {}
        if "grads" in state:
            sums["g"] = dots(state["grads"], cotangents)
        if self.momentum:
            sums["b"] = dots(state["momentum"], cotangents)
        if self.decays:
            sums["p"] = dots(point, cotangents)
        return sums

    def pull(self, sums: Mapping[str, float], state: State, value: Values, scale: float) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        g, mu, out = sums.get("g", 0.0), value["momentum"], {}
        b = sums.get("b", g)
        ahead = g + mu * b if self.nesterov else b
        out["lr"] = -scale * ahead
        rate = -scale * value["lr"]
        if self.momentum:
            out["momentum"] = rate * (2 * b - g if self.nesterov else (b - g) / mu)
        if self.decays:
            before = sums["p"] - rate * ahead
            out["weight_decay"] = rate * before * (1 + mu if self.nesterov else 1.0)
        return out

    def last(self, point: Params, state: State, value: Values, scale: float) -> Params | None:
        """u again, if the last gradient is kept."""
        if "grads" not in state and (self.nesterov or not self.momentum):
            return None
        rate = -scale * value["lr"]
        if not self.momentum:
            return list(torch._foreach_mul(state["grads"], rate))
        out: Any = torch._foreach_mul(state["momentum"], rate * (value["momentum"] if self.nesterov else 1.0))
        if self.nesterov:
            torch._foreach_add_(out, state["grads"], alpha=rate)
        return list(out)


class SgdFormula:
    """SGD on a few numbers."""

    def __init__(self, strategy: Strategy) -> None:
        self.momentum, self.decays = strategy.on("momentum"), strategy.on("weight_decay")
        self.nesterov: bool = strategy.nesterov  # type: ignore[assignment]

    def begin(self, size: int) -> State:
        """Zero momentum."""
        return {"momentum": [0.0] * size} if self.momentum else {}

    def step(self, point: Sequence[float], grads: Sequence[float], state: State, value: Values) -> list[float]:
        """−lr · a."""
        rate = -value["lr"]
        g = list(grads)
        if self.decays:
            decay = value["weight_decay"]
            g = [x + decay * p for x, p in zip(g, point, strict=True)]
            state["point"] = list(point)
        state["grads"] = g
        if not self.momentum:
            return [rate * x for x in g]
        mu = value["momentum"]
        b = state["momentum"] = [mu * y + x for x, y in zip(g, state["momentum"], strict=True)]
        if self.nesterov:
            return [rate * (x + mu * y) for x, y in zip(g, b, strict=True)]
        return [rate * y for y in b]

    def pull(self, cotangents: Sequence[float], state: State, value: Values) -> dict[str, float]:
        """⟨∂u/∂value, c⟩."""
        rate, g = -value["lr"], 0.0
        for x, c in zip(state["grads"], cotangents, strict=True):
            g += x * c
        if not self.momentum:
            out, nesterov = {"lr": -g}, 0.0
        else:
            mu = value["momentum"]
            b = sum(x * c for x, c in zip(state["momentum"], cotangents, strict=True))
            nesterov = mu if self.nesterov else 0.0
            out = {"lr": -(g + mu * b) if self.nesterov else -b}
            out["momentum"] = rate * (2 * b - g if self.nesterov else (b - g) / mu)
        if self.decays:
            before = sum(p * c for p, c in zip(state["point"], cotangents, strict=True))
            out["weight_decay"] = rate * before * (1 + nesterov)
        return out
