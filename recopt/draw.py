"""Pictures of a graph of levels: as text, SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx

from .errors import RecoptError
from .graph import Graph
from .level import TASK, Level


def draw_text(graph: Graph, task: str = TASK) -> str:
    """One line per level, the highest first, with what it moves and how; ``task`` is what the task is called."""
    rows = []
    for number in reversed(range(len(graph.levels))):
        level = graph.levels[number]
        rows.append(
            (f"level {number + 1}", f"{graph.labels.get(level.by, level.by)}", f"→ {_target(level)}", _how(level))
        )
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    )


def _target(level: Level) -> str:
    return level.moves + (f"[{','.join(level.only)}]" if level.only else "")


def _how(level: Level) -> str:
    parts = [] if level.gradient == "direct" else [str(level.gradient)]
    if level.gradient == "unroll":
        parts.append("exact" if level.second_order else "second derivatives dropped")
    if level.moves != TASK:
        parts.append(f"every {level.every}")
    if level.episode:
        parts.append(f"episodes of {level.episode}")
    if level.normalize != "none":
        parts.append(f"{level.normalize} signal")
    if level.on == "valid":
        parts.append("held-out")
    return ", ".join(parts)


def _heights(graph: Graph) -> dict[str, int]:
    heights = {TASK: 0, **dict.fromkeys(graph.slots, 0)}
    for level in graph.levels:
        if level.by != level.moves:
            heights[level.by] = max(heights[level.by], heights[level.moves] + 1)
    return heights


def draw(graph: Graph, task: str = TASK) -> Any:
    """A matplotlib figure: slots as boxes, the task at the bottom, levels as arrows from strategy to optimizee."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

    heights = _heights(graph)
    nx.set_node_attributes(network := graph.network(), heights, "height")
    rows: dict[int, list[str]] = {}
    for name in network:
        rows.setdefault(heights[name], []).append(name)
    wide = max(len(row) for row in rows.values())
    where = {n: ((i - (len(row) - 1) / 2) * 3.6, 1.7 * y) for y, row in rows.items() for i, n in enumerate(row)}
    figure = Figure(figsize=(3.2 + 2.6 * wide, 1.2 + 1.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    for number, level in enumerate(graph.levels, 1):
        (x0, y0), (x1, y1) = where[level.by], where[level.moves]
        loop = level.by == level.moves
        start, end = ((x0 + 0.9, y0 + 0.25), (x0 + 0.9, y0 - 0.25)) if loop else ((x0, y0 - 0.33), (x1, y1 + 0.33))
        bend = "arc3,rad=-1.6" if loop else f"arc3,rad={0.12 * (number % 2) if wide > 1 else 0}"
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=14, color="#4477aa", lw=1.4, connectionstyle=bend
        )
        axes.add_patch(arrow)
        text = f"{number}: {_target(level)}" if level.only else f"{number}"
        axes.text(
            (x0 + x1) / 2 + (1.5 if loop else 0.15), (y0 + y1) / 2, f"{text}  {_how(level)}", fontsize=8, va="center"
        )
    for name, (x, y) in where.items():
        face = "#ddeeff" if name != TASK else "#f4ead4"
        box = {"boxstyle": "round,pad=0.45", "facecolor": face, "edgecolor": "#335577"}
        axes.text(x, y, graph.labels.get(name, name), ha="center", va="center", fontsize=10, bbox=box)
    axes.set_xlim(-1.9 * wide, 1.9 * wide + 1.6)
    axes.set_ylim(-0.7, 1.7 * max(rows) + 0.7)
    return figure


def draw_file(graph: Graph, path: Path, task: str = TASK) -> None:
    """Write the picture to ``path`` (``.svg`` or ``.png``). Raises RecoptError for another ending."""
    if path.suffix not in (".svg", ".png"):
        raise RecoptError(f"A graph is drawn to .svg or .png, not '{path.name}': change the ending.")
    draw(graph, task).savefig(path, dpi=150)
