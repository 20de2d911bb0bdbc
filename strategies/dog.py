"""Distance over gradients: a rate from how far the point has come and how large the gradients were. No knob.

Ivgi, Hinder & Carmon 2023 (2302.12022), eq. DoG and section 2: with x₀ the first point,

    r_t = max(reach · (1 + ‖x₀‖), max_{s≤t} ‖x_s − x₀‖),    G_t = Σ_{s≤t} ‖g_s‖²,    x ← x − r_t / √G_t · g_t

norms over all tensors together (one rate for all). ``reach`` only sets how small the first step is: r grows from it
by itself, exponentially while steps agree. Nothing is a hyperparameter, so it ends a tower. Their weight
averaging is not part of the rule.

State: ``{"start": [x₀], "distance": r, "total": G}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option
from recopt.toolkit.blocks import inner


class Dog(Strategy):
    """Gradient descent whose rate is the distance come so far over the root of the summed squared gradients."""

    reach = option(1e-6, "first distance, relative to 1 + the norm of the start; any small number will do")

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
        total = state["total"] + inner(grads, grads)
        rate = distance / total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
        return [-rate * g for g in grads], {"start": state["start"], "distance": distance, "total": total}
