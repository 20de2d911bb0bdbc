"""Coin betting: each coordinate bets a share of what it has won so far on the sign of its next gradient. No knob.

Orabona & Tommasi 2017 (1705.07795), algorithm 2 (COCOB-Backprop), for each coordinate, x₁ being its start:

    L ← max(L, |g|),   G ← G + |g|,   W ← max(W − (x − x₁) g, 0),   S ← S − g
    x ← x₁ + S / (L max(G + L, patience · L)) · (L + W)

``patience`` (theirs: 100) only bounds the first bets. Nothing is a hyperparameter, so it ends a tower.

State: ``{"start": [x₁], "largest": [L], "total": [G], "reward": [W], "sum": [S]}``.
"""

from __future__ import annotations

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, option

LEAST = 1.2e-38
"""The smallest normal float32: what a coordinate without a gradient so far is divided by."""


class Cocob(Rule):
    """Coin betting: steps from the reward that earlier steps have earned, coordinate by coordinate."""

    patience = option(100.0, "the first bets are at most one in so many of the largest gradient")

    def init(self, point: Params) -> State:
        """Nothing won, nothing seen."""
        names = ("largest", "total", "reward", "sum")
        return {"start": [p.clone() for p in point], **{n: [torch.zeros_like(p) for p in point] for n in names}}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """L ← max(L, |g|),  G ← G + |g|,  W ← max(W − (x − x₁) g, 0),  S ← S − g."""
        size = ops.magnitude(grads)
        won = ops.mul(ops.add(point, state["start"], -1.0), grads)
        return {
            "start": state["start"], "largest": ops.maximum(state["largest"], size),
            "total": ops.decay_add(state["total"], size, 1.0), "sum": ops.add(state["sum"], grads, -1.0),
            "reward": ops.at_least(ops.add(state["reward"], won, -1.0), 0.0),
        }  # fmt: skip

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """x₁ + S / (L max(G + L, patience · L)) · (L + W) − x."""
        largest, total = state["largest"], state["total"]
        most = ops.maximum(ops.add(total, largest), ops.mul(largest, self.patience))
        share = ops.div(ops.div(state["sum"], ops.at_least(largest, LEAST)), ops.at_least(most, LEAST))
        bet = ops.mul(share, ops.add(largest, state["reward"]))
        return [Term(1.0, ops.add(bet, ops.add(point, state["start"], -1.0), -1.0))]
