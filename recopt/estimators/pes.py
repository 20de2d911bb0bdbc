"""Persistent evolution strategies: windows of long unrolls, without the bias of cutting them off.

Each point has a run of its own from the start of an episode on, perturbed anew in every window, and its score is
weighed by the sum ξ_i of all its perturbations so far: 1/(2Nσ²) Σ_i ξ_i (J(φ + ε_i) − J(φ − ε_i)) (Vicol, Metz &
Sohl-Dickstein 2021, 2112.13835, alg. 2).
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..contracts.strategy import Params
from ..levels.estimator import estimator
from ..levels.structure import Structure
from .es import EvolutionStrategies


@estimator("pes")
class PersistentEvolutionStrategies(EvolutionStrategies):
    """Perturbations that are drawn anew for every window, and added up over an episode."""

    persistent: ClassVar[bool] = True

    def refusal(self, graph: Structure, number: int) -> str | None:
        """As of evolution strategies; and scores that are told from where the run is."""
        level = graph.levels[number]
        if level.objective == "improvement":
            return f"with gradient={level.gradient} each point has a run of its own, and no common start to improve " \
                   "on: set objective=last, or gradient=es."  # fmt: skip
        return super().refusal(graph, number)

    def perturbed(self, carried: dict[str, Any], fresh: bool, drawn: Params) -> Params:
        """The draws themselves."""
        before = None if fresh else carried["weights"]
        carried["weights"] = drawn if before is None else [w + e for w, e in zip(before, drawn, strict=True)]
        return drawn
