"""Antithetic evolution strategy: pairs of points around the present one, moved by the ranks of their losses.

Salimans et al. 2017 (1703.03864, algorithm 1) with mirrored sampling and centered ranks; the adaptation of the step is
that of separable natural evolution strategies (Schaul, Glasmachers & Schmidhuber 2011, eq. 11; Wierstra et al. 2014,
section 3.5). With N/2 standard normal directions ε_k, the points

    x ± σ ⊙ ε_k,    σ = step · exp(r) · spread

are scored side by side: on the same batch, or over the same window. Each gets a utility u from its rank, and

    x ← x + lr · σ ⊙ Σ_k (u_k⁺ − u_k⁻) ε_k
    r ← r + adaptation · η/2 · Σ_k (u_k⁺ + u_k⁻) (ε_k² − 1),    η = (3 + ln n) / (5 √n) for n coordinates

Utilities see the order of losses only, so any monotonous change of the loss changes nothing. ``log`` weights the better
half, u = max(0, ln(N/2 + 1) − ln rank), made to sum to 1, less 1/N (Wierstra et al. 2014, eq. 12); ``linear`` are
the centered ranks of Salimans et al., made to have Σ|u| near 1. Equal losses have equal utilities, so a plateau moves
nothing. A loss that is not finite is the worst. r is one number per coordinate; it starts at 0 and stays at or below,
for the reason that ``annealing`` gives. ``spread`` (see ``recopt.toolkit.random.spreads``) is each tensor's own unit.

The present point is not scored: the run goes on from the end of the window nearest to where x moves.

State: ``{"ratio": [r per tensor], "spread": [one number per tensor]}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive
from recopt.toolkit.random import normal, spreads
from recopt.toolkit.scores import ranks, scores


class Evolution(Strategy):
    """Antithetic evolution strategy: moves along random pairs of directions, by the ranks of their losses."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    population = option(8, "points scored at every step, in pairs", least=2)
    utilities = option("log", "the weights of ranks", choices=("log", "linear"))
    step = positive(0.3, "standard deviation of each coordinate at the start, in its tensor's unit")
    lr = positive(1.0, "factor on the moves")
    adaptation = positive(1.0, "factor on the rate at which each coordinate's step adapts; 0: not at all", off=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.population % 2:
            raise RecoptError(f"evolution.population must be even, since points come in pairs, not {self.population}.")

    def init(self, point: Params) -> State:
        """The units of ``point``; steps as long as they begin."""
        return {"ratio": [torch.zeros_like(p) for p in point], "spread": spreads(point)}

    def _widths(self, point: Params, state: State) -> list[Tensor]:
        """The standard deviation of each coordinate."""
        each = zip(point, state["ratio"], state["spread"], strict=True)
        return [(self.step * spread).to(p) * ratio.exp() for p, ratio, spread in each]

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[x + σ ε_1, x − σ ε_1, x + σ ε_2, …]``."""
        widths, found = self._widths(point, state), list[Params]()
        for _ in range(self.population // 2):
            noise = normal(point, rng)
            for sign in (1, -1):
                found.append([p + sign * w * n for p, w, n in zip(point, widths, noise, strict=True)])
        return found

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move by the utilities of the trials."""
        pairs = self._utilities(scores(trials)).view(-1, 2)
        slope, growth = (pairs[:, 0] - pairs[:, 1]).tolist(), pairs.sum(1).tolist()
        count = max(1, sum(p.numel() for p in point))
        rate = self.adaptation * (3 + math.log(count)) / (5 * math.sqrt(count)) / 2
        deltas, ratios = [], []
        for i, (p, width) in enumerate(zip(point, self._widths(point, state), strict=True)):
            ways = [(trial.point[i] - p) / width for trial in trials[::2]]
            noise = [torch.where(way.isfinite(), way, 0.0) for way in ways]  # steps may be too short or long for floats
            move, turn = torch.zeros_like(p), torch.zeros_like(p)
            for a, b, n in zip(slope, growth, noise, strict=True):
                move, turn = move + a * n, turn + b * (n * n - 1)
            deltas.append(self.lr.to(p) * width * move)
            ratios.append((state["ratio"][i] + rate.to(p) * turn).clamp_max(0))
        return deltas, {"ratio": ratios, "spread": state["spread"]}

    def _utilities(self, losses: Tensor) -> Tensor:
        """A weight for each loss, the largest for the least; they sum to 0."""
        count, places = len(losses), ranks(losses)
        if self.utilities == "linear":
            return 4 / count * (0.5 - places / (count - 1))
        weights = (math.log(count / 2 + 1) - (places + 1).log()).clamp_min(0)
        return weights / weights.sum() - 1 / count
