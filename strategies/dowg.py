"""Distance over weighted gradients: like ``dog``, with gradients weighted by how far the point had come. No knob.

Khaled, Mishchenko & Jin 2023 (2305.16284), algorithm 1: with x₀ the first point,

    r_t = max(r_{t−1}, ‖x_t − x₀‖),    v_t = v_{t−1} + r_t² ‖g_t‖²,    x ← x − r_t² / √v_t · g_t

norms over all tensors together (one rate for all). Late gradients count for more, so the steps are never smaller than
those of ``dog``. r starts at ``reach`` · (1 + ‖x₀‖), which only sets how small the first step is. Nothing is a
hyperparameter, so it ends a tower.

State: ``{"start": [x₀], "distance": r, "total": v}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option
from recopt.toolkit.blocks import inner


class Dowg(Strategy):
    """Gradient descent at the distance come so far, squared, over the root of the gradients that it weighs."""

    reach = option(1e-4, "first distance, relative to 1 + the norm of the start; any small number will do")

    def init(self, point: Params) -> State:
        """Remembers the start."""
        first = self.reach * (1 + inner(point, point).sqrt())
        return {"start": [p.clone() for p in point], "distance": first, "total": torch.zeros_like(first)}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        way = [p - s for p, s in zip(point, state["start"], strict=True)]
        distance = torch.maximum(state["distance"], inner(way, way).sqrt())
        square = distance * distance
        total = state["total"] + square * inner(grads, grads)
        rate = square / total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
        return [-rate * g for g in grads], {"start": state["start"], "distance": distance, "total": total}
