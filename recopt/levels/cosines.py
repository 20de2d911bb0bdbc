"""Levels that read cosines of updates and what came after them: over what they may stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .level import COSINES, TASK
from .structure import Structure


def tied(graph: Structure, number: int, settings: Mapping[str, Any]) -> bool:
    """True if level ``number``, with ``settings``, moves its own step, online and over levels that read cosines."""
    level, exact = graph.levels[number], any(x.second_order for x in graph.levels)
    return level.moves == level.by and settings.get("every", 1) == 1 and not exact and not _others(graph, number)


def _others(graph: Structure, number: int) -> list[int]:
    """The levels of the strategy that a level moves which read no cosines."""
    return [m for m in graph.subjects[number] if graph.levels[m].normalize not in COSINES]


def refusal(graph: Structure, number: int) -> str | None:
    """A sentence for cosines that a level does not have: their measure is a number, of one window of updates."""
    level = graph.levels[number]
    below = [m for m in sorted(graph.below(number)) if graph.levels[m].normalize in COSINES]
    if level.second_order and below:
        return (f"an exact level differentiates what is beneath, but {graph.title(below[0])} has "
                f"normalize={graph.levels[below[0]].normalize}: set level{below[0] + 1}.normalize=rms.")  # fmt: skip
    if level.second_order and level.normalize in COSINES and graph.levels[graph.clock(number)].moves != TASK:
        return f"normalize={level.normalize} is not defined for exact levels this high: use normalize=rms."
    return _of_two(graph, number) if level.normalize == "cosines" else None


def _of_two(graph: Structure, number: int) -> str | None:
    level = graph.levels[number]
    if others := _others(graph, number):
        return f"normalize=cosines counts in those of the level beneath: set level{others[0] + 1}.normalize=cosine."
    if getattr(graph.slots[level.moves], "linear", None) not in graph.names[level.moves]:
        return f"normalize=cosines counts in steps of '{level.moves}', which names none ('linear'): use rms_all."
    if level.every != 1 or any(x.second_order for x in graph.levels):
        return "normalize=cosines is of one update without second derivatives: set every=1, or use rms_all."
    return None
