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

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, positive


class Kesten(Strategy):
    """Steps that shorten as signs change: for rates that are to settle early."""

    formula = "recopt.optim.kernels.kesten:KestenFormula"

    lr = positive(0.01, "learning rate: about the length of the first step", above=1.0)
    power = option(0.25, "how fast steps shorten with the count of turns; 0: adagrad", least=0)

    def init(self, point: Params) -> State:
        """Nothing seen."""
        return {name: [torch.zeros_like(p) for p in point] for name in ("sum", "before", "turns")}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        pairs = list(zip(grads, state["before"], strict=True))
        # Products of tiny gradients would be 0, so signs are compared.
        turns = [k + (g.sign() * b.sign() < 0).to(k.dtype) for k, (g, b) in zip(state["turns"], pairs, strict=True)]
        total = [s + g * g for s, g in zip(state["sum"], grads, strict=True)]
        roots = [s.clamp_min(torch.finfo(s.dtype).tiny).sqrt() for s in total]
        deltas = [-self.lr * g / r / (1 + k) ** self.power for g, r, k in zip(grads, roots, turns, strict=True)]
        before = [torch.where(g == 0, b, g) for g, b in pairs]
        return deltas, {"sum": total, "before": before, "turns": turns}
