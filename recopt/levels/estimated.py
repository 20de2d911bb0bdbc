"""Levels whose gradients are estimated from trials, where they need not be."""

from __future__ import annotations

import warnings

from ..checking.errors import Notice
from .registry import ESTIMATORS
from .structure import Structure


def tell_exact(graph: Structure, number: int) -> None:
    """Say where a level estimates what another estimator has exactly."""
    level, below = graph.levels[number], graph.below(number)
    smooth = all(graph.order(m) and not graph.levels[m].perturbs for m in below)
    if level.perturbs and smooth and ESTIMATORS["unroll"].refusal(graph, number) is None:
        said = f"gradient={level.gradient} estimates from trials what gradient=unroll, second_order=true has exactly"
        warnings.warn(f"Level{graph.title(number).removeprefix('level')}: {said}.", Notice, stacklevel=3)
