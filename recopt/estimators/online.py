"""The unroll of length 1 with second derivatives dropped: towers (Chandra et al. 2022, 1909.13371)."""

from __future__ import annotations

from ..levels.estimator import estimator
from ..levels.structure import Structure
from .unroll import Unroll


@estimator("online")
class Online(Unroll):
    """The last update against the gradient that came after it."""

    def refusal(self, graph: Structure, number: int) -> str | None:
        """As of an unroll; and windows of more than one update."""
        level = graph.levels[number]
        if level.every != 1 or level.second_order:
            return "gradient=online is the unroll of length 1 without second derivatives: use gradient=unroll."
        return super().refusal(graph, number)
