"""Self-adaptive evolution strategy: each point has a step of its own, and the best points leave theirs to the next.

(μ/μ, λ)-σSA-ES after Schwefel 1995 and Beyer & Schwefel 2002 (section 4.2), with the present point among the others.
With n coordinates and q_k the quantiles (k − 1/2) / λ of the standard normal distribution, k = 1 … λ, the points

    σ_k = σ exp(τ q_k),    x_1 = x, x_k = x + σ_k spread ⊙ ε_k,    τ = learning / √(2n), ε_k standard normal,

are scored side by side, on the same batch or over the same window, and the run goes on from weighted means of the best

    x ← Σ w_k x_k,    log σ ← Σ w_k log σ_k,    w ∝ max(0, ln(λ/4 + 1) − ln rank), which sum to 1.

So a step is changed first, and used then; what is chosen by its outcome is the step as well. It is changed by factors
of a fixed size, whose logarithms have mean 0: no start is too small to be left, and where scores are pure noise there
is no drift. Only the order of losses is seen. The q_k in the place of draws try every size of step each time. Where x
is better than all the others, most of the weight is its own, and that of the shortest step.

Where all losses are equal, to rounding, the points were too near to each other, and σ grows by exp(τ q_λ); where none
is finite, it falls by as much. It is at most ``LONGEST``, or the first step if that is longer. ``spread`` (see
``recopt.toolkit.random.spreads``) is each tensor's own unit.

State: ``{"ratio": log σ over its start, "spread": [one number per tensor]}``, all of them 0-dimensional tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.random import displaced, normal, spreads
from recopt.toolkit.scores import ranks, scores

LONGEST = 10.0
"""The longest step, in units of the tensors, unless the first one is longer."""
ROUNDING = 4.0
"""Differences up to this many units in the last place of the loss are rounding."""


class SelfAdaptive(Strategy):
    """Self-adaptive evolution strategy: the step of each point is drawn first, and chosen with it by its loss."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    population = option(8, "points scored at every step", least=4)
    step = positive(0.3, "standard deviation of each coordinate at the start, in its tensor's unit")
    learning = positive(1.0, "how widely the steps of one population are spread, in units of 1/√(2n) for n coordinates")

    def init(self, point: Params) -> State:
        """The units of ``point``; the step as it begins."""
        return {"ratio": point[0].detach().new_zeros(()), "spread": spreads(point)}

    def tells(self, state: State, hyper: Mapping[str, float]) -> dict[str, float]:
        """The standard deviation σ, in units of the tensors."""
        return {"step": hyper["step"] * float(state["ratio"].exp())}

    def _factors(self, point: Params) -> Tensor:
        """log σ_k − log σ of each point."""
        count = max(1, sum(p.numel() for p in point))
        shares = (torch.arange(self.population, dtype=torch.float64) + 0.5) / self.population
        quantiles: Tensor = torch.special.ndtri(shares)
        return quantiles * (float(self.learning) / math.sqrt(2 * count))

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[x, x + σ_2 ε_2, x + σ_3 ε_3, …]``."""
        factors = self._factors(point)[1:].to(state["ratio"])
        lengths = [self.step * (state["ratio"] + factor).exp() for factor in factors]
        return [point, *(displaced(point, length, state["spread"], normal(point, rng)) for length in lengths)]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Go to the weighted means of the best points, and of the logarithms of their steps."""
        losses, factors = scores(trials), self._factors(point)
        best, worst = losses.min(), losses.max()
        if not bool(best.isfinite()) or bool(worst - best <= _rounding(trials) * best.abs()):
            change = factors[-1] if bool(best.isfinite()) else factors[0]
            return [torch.zeros_like(p) for p in point], {**state, "ratio": self._within(state["ratio"], change)}
        weights = (math.log(self.population / 4 + 1) - (ranks(losses) + 1).log()).clamp_min(0)
        weights = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        deltas = [torch.zeros_like(p) for p in point]
        for weight, trial in zip(weights.tolist(), trials, strict=True):
            if weight:
                deltas = [d + weight * (q - p) for d, q, p in zip(deltas, trial.point, point, strict=True)]
        return deltas, {**state, "ratio": self._within(state["ratio"], weights @ factors)}

    def _within(self, ratio: Tensor, change: Tensor) -> Tensor:
        """The logarithm of the step over its start after a change."""
        most = (LONGEST / self.step.detach()).log().clamp_min(0)
        return torch.minimum(ratio + change.to(ratio), most.to(ratio))


def _rounding(trials: Sequence[Trial]) -> float:
    loss = trials[0].loss
    return ROUNDING * torch.finfo(loss.dtype if loss is not None else torch.float64).eps
