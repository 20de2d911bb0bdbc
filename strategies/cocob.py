"""Coin betting: each coordinate bets a share of what it has won so far on the sign of its next gradient. No knob.

Orabona & Tommasi 2017 (1705.07795), algorithm 2 (COCOB-Backprop), for each coordinate, x₁ being its start:

    L ← max(L, |g|),   G ← G + |g|,   W ← max(W − (x − x₁) g, 0),   S ← S − g
    x ← x₁ + S / (L max(G + L, patience · L)) · (L + W)

``patience`` (theirs: 100) only bounds the first bets. Nothing is a hyperparameter, so it ends a tower.

State: ``{"start": [x₁], "largest": [L], "total": [G], "reward": [W], "sum": [S]}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option


class Cocob(Strategy):
    """Coin betting: steps from the reward that earlier steps have earned, coordinate by coordinate."""

    patience = option(100.0, "the first bets are at most one in so many of the largest gradient")

    def init(self, point: Params) -> State:
        """Nothing won, nothing seen."""
        names = ("largest", "total", "reward", "sum")
        return {"start": [p.clone() for p in point], **{n: [torch.zeros_like(p) for p in point] for n in names}}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        largest = [torch.maximum(a, g.abs()) for a, g in zip(state["largest"], grads, strict=True)]
        total = [a + g.abs() for a, g in zip(state["total"], grads, strict=True)]
        come = [p - s for p, s in zip(point, state["start"], strict=True)]
        reward = [(w - c * g).clamp_min(0) for w, c, g in zip(state["reward"], come, grads, strict=True)]
        pull = [a - g for a, g in zip(state["sum"], grads, strict=True)]
        deltas = []
        for c, m, t, w, s in zip(come, largest, total, reward, pull, strict=True):
            stake = m * torch.maximum(t + m, self.patience * m)
            target = torch.where(m > 0, s / stake.clamp_min(torch.finfo(m.dtype).tiny) * (m + w), torch.zeros_like(m))
            deltas.append(target - c)
        return deltas, {"start": state["start"], "largest": largest, "total": total, "reward": reward, "sum": pull}
