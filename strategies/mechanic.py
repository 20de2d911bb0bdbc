"""Mechanic over Adam: the sum of Adam's unit steps so far, times a scale that is learned by betting. No learning rate.

Cutkosky, Defazio & Mehta 2023 (2306.00144), algorithm 1, with Adam's step at a rate of 1 as the base update u and n
values of β (``BETAS``), x₁ being the first point and Δ₁ = 0:

    h = ⟨Δ, g + decay · (Σᵢ sᵢ) ‖g‖ x / ‖x‖⟩
    mᵢ ← max(βᵢ mᵢ, |h|),  vᵢ ← βᵢ² vᵢ + h²,  rᵢ ← max(βᵢ rᵢ − sᵢ h, 0)
    sᵢ ← (first · mᵢ / n + rᵢ) / (√vᵢ + eps),   Δ ← Δ + u,   x ← x₁ + (Σᵢ sᵢ) Δ

Inner products run over all tensors together; m starts at 1e-6, as in the authors' code. Theirs adds the base's step to
x before it takes the decay's; here, as in the paper, that is of x itself.

State: ``{"steps": t, "start": [x₁], "way": [Δ], "mean": [m], "square": [v], "scale": s, "largest": m, "spread": v,
"reward": r}``; the last four of shape (n,).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, option, unit
from recopt.toolkit.blocks import inner

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
TINY = 1e-8


def _length(items: Params) -> Tensor:
    # The clamp cuts the root's infinite slope at 0.
    square = inner(items, items)
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


class Mechanic(Strategy):
    """Adam's steps added up and scaled by what betting on their direction has won so far."""

    beta1 = unit(0.9, "decay of the running mean of gradients; 0: none", off=0.0)
    beta2 = unit(0.999, "decay of the running mean of squared gradients")
    decay = option(0.01, "how much the scale is held back, relative to the gradients (lambda in the paper)")
    first = option(1e-6, "first scale (theirs: 1e-8); any small number will do")

    def init(self, point: Params) -> State:
        """Nothing won, no way come; remembers the start."""
        nothing = torch.zeros_like(point[0].sum()).expand(len(BETAS)).clone()
        zeros = {name: [torch.zeros_like(p) for p in point] for name in ("way", "mean", "square")}
        bets = {name: nothing.clone() for name in ("scale", "spread", "reward")}
        return {"steps": 0, "start": [p.clone() for p in point], **zeros, **bets, "largest": nothing + 1e-6}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        unit_steps, moments = self._adam(grads, state)
        bets = self._bet(point, grads, state)
        way = [w + u for w, u in zip(state["way"], unit_steps, strict=True)]
        scale = bets["scale"].sum()
        # The way come first: it is small at the start, and adding it to the point would round it away.
        deltas = [scale * w - (p - s) for s, w, p in zip(state["start"], way, point, strict=True)]
        return deltas, {**moments, "start": state["start"], "way": way, **bets}

    def _adam(self, grads: Params, state: State) -> tuple[Params, State]:
        """Adam's step at a rate of 1, and its moments."""
        beta1, beta2, steps = self.beta1, self.beta2, state["steps"] + 1
        mean = [beta1 * m + (1 - beta1) * g for m, g in zip(state["mean"], grads, strict=True)]
        square = [beta2 * v + (1 - beta2) * g * g for v, g in zip(state["square"], grads, strict=True)]
        rate, correction = 1 / (1 - beta1**steps), (1 - beta2**steps).sqrt()
        roots = [v.clamp_min(torch.finfo(v.dtype).tiny).sqrt() / correction for v in square]
        found = [-rate * m / (r + TINY) for m, r in zip(mean, roots, strict=True)]
        return found, {"steps": steps, "mean": mean, "square": square}

    def _bet(self, point: Params, grads: Params, state: State) -> State:
        """The scales after this gradient, and what they were computed from."""
        scale = state["scale"]
        held = self.decay * scale.sum() * _length(grads) / (_length(point) + TINY)
        won = inner(state["way"], grads) + held * inner(state["way"], point)
        betas = torch.tensor(BETAS, dtype=scale.dtype, device=scale.device)
        largest = torch.maximum(betas * state["largest"], won.abs())
        spread = betas**2 * state["spread"] + won * won
        reward = (betas * state["reward"] - scale * won).clamp_min(0)
        root = spread.clamp_min(torch.finfo(spread.dtype).tiny).sqrt()
        after = (self.first / len(BETAS) * largest + reward) / (root + TINY)
        return {"scale": after, "largest": largest, "spread": spread, "reward": reward}
