"""Adagrad whose steps also shorten with every turn: how often a gradient's sign has changed says how near the end is.

Kesten 1958 (Ann. Math. Statist. 29, 41-59) lets the steps of a stochastic approximation fall with the number of changes
of sign instead of the number of steps: what goes one way all the time goes on fast, what turns to and fro is settling.
Here the count is a second factor beside the sum of squares. Elementwise, with k = 0 at the start:

    s ← s + g²,    k ← k + [g · g_before < 0]
    θ ← θ − lr · g / √s / (1 + k)^power

Where noise makes the sign change every other time, steps fall as t^−(½ + power): as t^−¾ with a power of ¼, between
the ½ and the 1 for which Polyak & Juditsky 1992 show means of iterates to be best. Made for the logarithm of a rate.

State: ``{"sum": [s per tensor], "before": [the last gradients that were not 0], "turns": [k]}``.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, option, positive


class Kesten(Rule):
    """Steps that shorten as signs change: for rates that are to settle early."""

    linear: ClassVar[str | None] = "lr"

    lr = positive(0.01, "learning rate: about the length of the first step", above=1.0)
    power = option(0.25, "how fast steps shorten with the count of turns; 0: adagrad", least=0)

    def init(self, point: Params) -> State:
        """Nothing seen."""
        return {name: [torch.zeros_like(p) for p in point] for name in ("sum", "before", "turns")}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """s ← s + g², and k counts the changes of sign."""
        turns = ops.turns(state["turns"], state["before"], grads)
        before = ops.latest(state["before"], grads)
        return {"sum": ops.add_square(state["sum"], grads), "before": before, "turns": turns}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−lr · g / √s / (1 + k)^power."""
        slower = ops.power(ops.add(state["turns"], 1.0), self.power)
        return [Term(-hyper["lr"], grads, ops.mul(ops.roots(state["sum"]), slower))]
