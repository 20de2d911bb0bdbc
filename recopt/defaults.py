"""What a level leaves open: defaults of its strategy, of the strategy that it moves, and of all levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .level import TASK, Level

if TYPE_CHECKING:
    from .graph import Graph

WINDOW_OF_VALUES = 100
"""Task evaluations over which a zero-order level scores a trial, where nothing else is said."""


def complete(graph: Graph, number: int) -> Level:
    """Level ``number`` (0-based) with what it leaves open filled in; the levels below it are complete already."""
    level = graph.levels[number]
    by = graph.slots[level.by]
    beneath = {} if level.moves == TASK else graph.slots[level.moves].above
    given = level.model_dump(exclude_none=True)
    open_: dict[str, Any] = dict(beneath) | dict(by.level)
    if by.order == 0:
        open_ = {k: v for k, v in open_.items() if k not in ("gradient", "second_order", "normalize", "every")}
    settings = {**{k: v for k, v in open_.items() if k in Level.model_fields}, **given}
    if level.moves == TASK:
        fixed = {"every": 1, "gradient": "direct" if by.order else "value"}
        base = {**fixed, "second_order": False, "normalize": settings.get("normalize", "none")}
        return Level(**{**base, "objective": "mean", "on": "train", **given})
    default: dict[str, Any] = {"objective": "mean", "on": "train", "second_order": False}
    if by.order == 0:
        window = open_.get("window", WINDOW_OF_VALUES)
        span = max(1, graph.evaluations(graph.clock(number))) if graph.subjects[number] else 1
        default |= {"gradient": "value", "normalize": "none", "every": max(1, round(window / span))}
    else:
        online = settings.get("every", 1) == 1 and not settings.get("second_order")
        default |= {"gradient": "online" if online else "unroll", "normalize": "rms", "every": 1}
    if level.moves == level.by:
        default["trust"] = 0.01
    settings = {**default, **settings}
    episode, every = settings.get("episode"), settings["every"]
    if episode and level.episode is None and episode % every:
        # Nobody chose this length: the nearest that holds whole windows.
        settings["episode"] = every * max(1, round(episode / every))
    return Level(**settings)
