"""Random search: candidates drawn around where it started, at a fixed scale; the best of a paired comparison stays.

At every step ``population`` − 1 points are drawn independently around the first point c (not around the present one),

    x_k = c + spread · unit ⊙ ε_k,    ε uniform in [−1, 1] (``shape: box``) or standard normal (``gaussian``)

(Bergstra & Bengio 2012, for hyperparameters in their coordinates), and scored beside the present point x: all on the
same batch, or over the same window. The one with the least loss becomes x; x stays where none is better, and a loss
that is not finite never wins. ``unit`` (see ``recopt.toolkit.random.spreads``) is 1 for a coordinate such as a log
learning rate, and the root mean square at the start for a network's weights.

Under noise, honestly: a win is a win on one batch only. The present point is scored anew at every step, so a lucky
winner is found out and replaced; no best value is remembered, and the least of many noisy losses is not reported
as one. The more candidates, the luckier the winner of a step: longer windows, not a larger population, buy certainty.

A level above the task scores each point over a window of 100 evaluations of the task: the shortest at which the
paired difference of two learning rates has the sign that it has in the long run (measured: see ``annealing``).

State: ``{"center": [c per tensor], "unit": [one number per tensor]}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.random import normal, spreads, uniform


class RandomSearch(Strategy):
    """Random search: points drawn around the start at a fixed scale, the better of each comparison kept."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    spread = positive(2.3, "half width of the box, or standard deviation, in each tensor's unit (2.3: one decade)")
    shape = option("box", "the distribution of candidates", choices=("box", "gaussian"))
    population = option(2, "points scored at every step, the present one among them", least=2)

    def init(self, point: Params) -> State:
        """The box: around ``point``, in the units of ``point``."""
        return {"center": [p.detach() for p in point], "unit": spreads(point)}

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[point, candidate, …]``."""
        draw = normal if self.shape == "gaussian" else uniform
        widths = [(self.spread * unit).to(c) for c, unit in zip(state["center"], state["unit"], strict=True)]
        drawn = [draw(point, rng) for _ in range(self.population - 1)]
        return [point, *([c + w * n for c, w, n in zip(state["center"], widths, d, strict=True)] for d in drawn)]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move to the candidate with the least loss, if it is less than the present point's."""
        losses = torch.stack([t.loss for t in trials if t.loss is not None])
        # Of equals the first wins: the present point, which is listed first, stays.
        ranked = torch.where(losses.isfinite(), losses, torch.inf)
        best = (ranked == ranked.min()).to(torch.int8).argmax()
        choices = [torch.stack([t.point[i] - p for t in trials]) for i, p in enumerate(point)]
        deltas = [torch.where(best == 0, torch.zeros_like(p), c[best]) for p, c in zip(point, choices, strict=True)]
        return deltas, state
