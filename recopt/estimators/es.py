"""Evolution strategies: the gradient of a smoothed meta-loss, from its values at antithetic pairs of perturbed points.

For φ and ε_i ~ N(0, σ²) the estimate is 1/(2Nσ²) Σ_i ε_i (J(φ + ε_i) − J(φ − ε_i)), that of E J(φ + ε) (Rechenberg
1973; Salimans et al. 2017, 1703.03864; Metz et al. 2019, 1810.10180). All windows begin where the run is, which cuts
off what φ did before: a truncated window's bias remains.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ..contracts.strategy import Params
from ..levels.estimator import estimator
from ..levels.level import COSINES
from ..levels.structure import Structure
from .value import Value


@estimator("es")
class EvolutionStrategies(Value):
    """Perturbations that are drawn anew for every window."""

    gradients: ClassVar[bool] = True
    persistent: ClassVar[bool] = False

    def refusal(self, graph: Structure, number: int) -> str | None:
        """A sentence for what asks for a derivative, and for fresh starts by turns."""
        level = graph.levels[number]
        if level.second_order:
            return f"gradient={level.gradient} differentiates nothing: leave 'second_order' out."
        if level.normalize in COSINES:
            return f"a cosine is of updates and what came after them, which gradient={level.gradient} does not read: " \
                   "set normalize=rms."  # fmt: skip
        if level.stagger:
            return f"gradient={level.gradient} has all its trials start afresh together: drop 'stagger'."
        return None

    def perturbed(self, carried: dict[str, Any], fresh: bool, drawn: Params) -> Params:
        """The displacements of the coming window's points, given new draws: [pairs, …] for each tensor."""
        carried["weights"] = drawn
        return drawn

    def estimate(self, carried: dict[str, Any], sigma: float, gaps: Tensor) -> Params:
        """The gradient, from J(φ + ε) − J(φ − ε) of each pair."""
        scale = gaps / (2 * len(gaps) * sigma**2)
        return [torch.tensordot(scale.to(w), w, 1) for w in carried["weights"]]


def draw(point: Params, sigma: float, pairs: int, rng: Generator) -> Params:
    """Gaussian displacements of ``point``, [pairs, …] for each of its tensors."""
    return [sigma * torch.randn(pairs, *p.shape, generator=rng, dtype=p.dtype).to(p.device) for p in point]
