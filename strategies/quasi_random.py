"""Quasi-random search: points of a scrambled Sobol sequence around the start; the best of a paired comparison stays.

As ``random-search``, but the points are not independent: they are of a low-discrepancy sequence (Sobol 1967, with the
directions of Joe & Kuo 2008, scrambled after Owen 1998, as ``torch.quasirandom.SobolEngine`` has it). They leave
smaller holes, so that fewer search a box of few coordinates (Bousquet et al. 2017, 1706.03200). Every step's N − 1,

    x_k = c + spread · unit ⊙ (2 u_k − 1),    u_k in [0, 1)

around the first point c are scored beside the present one: on the same batch, or over the same window. The one with the
least loss becomes the present one, as in ``random-search``, and what is said there of noise is true here.

State: ``{"center": [c per tensor], "unit": [one number per tensor], "drawn": points so far}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator
from torch.quasirandom import SobolEngine

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import unflatten
from recopt.toolkit.random import spreads
from recopt.toolkit.scores import scores


class QuasiRandom(Strategy):
    """Quasi-random search: a Sobol sequence around the start, the better of each comparison kept."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    spread = positive(2.3, "half width of the box, in each tensor's unit (2.3: one decade)")
    population = option(2, "points scored at every step, the present one among them", least=2)

    def init(self, point: Params) -> State:
        """The box: around ``point``, in the units of ``point``."""
        return {"center": [p.detach() for p in point], "unit": spreads(point), "drawn": 0}

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[point, candidate, …]``."""
        count = sum(p.numel() for p in point)
        if count > SobolEngine.MAXDIM:
            raise RecoptError(f"quasi-random searches at most {SobolEngine.MAXDIM:,} coordinates, not {count:,}: take "
                              "random-search or evolution.")  # fmt: skip
        if not count:
            return [point]
        # That of the generator, which stays, as one scrambling is to last.
        sequence = SobolEngine(count, scramble=True, seed=rng.initial_seed() % 2**31)
        sequence.fast_forward(int(state["drawn"]))
        found = [point]
        for row in sequence.draw(self.population - 1, dtype=torch.float64):
            places = unflatten(2 * row - 1, point)
            each = zip(state["center"], state["unit"], places, strict=True)
            found.append([c + (self.spread * unit).to(c) * place.to(c) for c, unit, place in each])
        return found

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move to the candidate with the least loss, if it is less than the present point's."""
        best = int(scores(trials).argmin())  # of equals the first, which is the present point
        after = {**state, "drawn": state["drawn"] + len(trials) - 1}
        return [q - p for p, q in zip(point, trials[best].point, strict=True)], after
