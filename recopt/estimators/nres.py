"""Noise-reuse evolution strategies: one perturbation for each point through a whole episode, scored window by window.

The estimate is that of evolution strategies, 1/(2Nσ²) Σ_i ε_i (J(φ + ε_i) − J(φ − ε_i)), with runs that go on as those
of PES do and ε_i that stays: of less variance than PES (Li et al. 2023, 2304.12180). All points are in the same window
of an episode, so that this is ES-Single (Vicol 2023) as well.
"""

from __future__ import annotations

from typing import Any

from ..contracts.strategy import Params
from ..levels.estimator import estimator
from ..levels.structure import Structure
from .pes import PersistentEvolutionStrategies


@estimator("nres")
class NoiseReuseEvolutionStrategies(PersistentEvolutionStrategies):
    """Perturbations that are drawn at the start of an episode."""

    def refusal(self, graph: Structure, number: int) -> str | None:
        """As of PES; and a run without episodes, which would be perturbed in the same directions for ever."""
        subjects = set(graph.subjects[number])
        if not any(level.episode and subjects & set(graph.subjects[n]) for n, level in enumerate(graph.levels)):
            return "gradient=nres perturbs in the same directions through an episode, and there are none: set " \
                   "'episode', or gradient=pes."  # fmt: skip
        return super().refusal(graph, number)

    def perturbed(self, carried: dict[str, Any], fresh: bool, drawn: Params) -> Params:
        """The draws of the episode's first window."""
        carried["weights"] = noise = drawn if fresh else carried["weights"]
        return noise
