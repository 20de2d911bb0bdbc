"""Notices of what a graph does, and its author may not want: gradients estimated in vain, rules that are never used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..checking.errors import Notice
from .registry import ESTIMATORS
from .structure import Structure

WITHOUT = "without"
"""The key in a strategy's ``above`` of a notice, if no level moves what its ``only`` names."""


def tell_exact(graph: Structure, number: int) -> None:
    """Say where a level estimates what another estimator has exactly."""
    level, below = graph.levels[number], graph.below(number)
    smooth = all(graph.order(m) and not graph.levels[m].perturbs for m in below)
    if level.perturbs and smooth and ESTIMATORS["unroll"].refusal(graph, number) is None:
        said = f"gradient={level.gradient} estimates from trials what gradient=unroll, second_order=true has exactly"
        warnings.warn(f"Level{graph.title(number).removeprefix('level')}: {said}.", Notice, stacklevel=3)


def tell_unmoved(graph: Structure) -> None:
    """Say what a strategy asks to be told where no level moves what it is made for."""
    for slot, strategy in graph.slots.items():
        asked, names = strategy.above, graph.names[slot]
        if not isinstance(asked, Mapping) or WITHOUT not in asked:
            continue
        moved = [names[i] for n in graph.movers[slot] for i in graph.moved(n, names)]
        if not any(fnmatchcase(name, pattern) for name in moved for pattern in asked.get("only", "*")):
            warnings.warn(f"In '{slot}': {asked[WITHOUT]}", Notice, stacklevel=3)
