"""Plots of a graph of levels: as text, SVG or PNG."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..contracts.errors import RecoptError
from ..levels.graph import Graph
from ..levels.level import TASK, Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINE, PAPER, TASK_PAPER, SOFT = "#22313f", "#4477aa", "#e8f0f9", "#f7eeda", "#5a6b7b"
WIDE, HIGH = 3.4, 1.5
"""Inches between the centres of two boxes, across and up."""


class Box(NamedTuple):
    """A slot in the plot: its centre and half its width, in inches."""

    x: float
    y: float
    half: float
    text: str


def draw_text(graph: Graph, task: str = TASK) -> str:
    """One line per level, the highest first: its strategy, its slot and its settings. ``task`` is the task's name."""
    rows = []
    for number in reversed(range(len(graph.levels))):
        level = graph.levels[number]
        target = _target(level) if level.moves != TASK else task + _target(level).removeprefix(TASK)
        rows.append((f"level {number + 1}", graph.labels.get(level.by, level.by), f"→ {target}", how(level)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _target(level: Level) -> str:
    return level.moves + (f"[{','.join(level.only)}]" if level.only else "")


def how(level: Level) -> str:
    """A level's estimator, timing and transforms in a few words; for one that moves the task, its normalization."""
    if level.moves == TASK:
        return "" if level.normalize == "none" else f"{level.normalize} signal"
    parts = ["trials" if level.gradient == "value" else str(level.gradient), f"every {level.every}"]
    if level.gradient == "unroll":
        parts[0] = "unroll" if level.second_order else "unroll, second derivatives dropped"
    if level.episode:
        growth = f" that grow over {level.curriculum} steps" if level.curriculum else ""
        parts.append(f"episodes of {level.episode}{growth}{', staggered' if level.stagger else ''}")
    if level.normalize != "none":
        parts.append(f"{level.normalize} signal")
    if level.teacher is not None:
        parts.append(f"imitating {level.teacher} for {level.imitate} steps")
    if level.objective != "mean":
        parts.append(f"{level.objective} of the losses" if level.objective in ("sum", "last") else f"{level.objective}")
    if level.on == "valid":
        parts.append("held-out batches")
    return ", ".join(parts)


def _heights(graph: Graph) -> dict[str, int]:
    """The row of each slot, counted from the task: above all that it moves, as far as there are no cycles."""
    heights = {TASK: 0, **dict.fromkeys(graph.slots, 0)}
    for level in graph.levels:
        if level.by != level.moves:
            heights[level.by] = max(heights[level.by], heights[level.moves] + 1)
    for level in graph.levels:
        if level.teacher is not None:
            heights[level.teacher] = heights[level.teacher] or heights[level.moves]
    return heights


def _boxes(graph: Graph, task: str) -> dict[str, Box]:
    rows: dict[int, list[str]] = {}
    for name, height in _heights(graph).items():
        rows.setdefault(height, []).append(name)
    boxes = {}
    for number, (_, row) in enumerate(sorted(rows.items())):
        for i, name in enumerate(row):
            label = task if name == TASK else graph.labels.get(name, name)
            text = "\n".join(textwrap.wrap(label, 30, break_long_words=False)) or label
            longest = max(len(line) for line in text.split("\n"))
            boxes[name] = Box((i - (len(row) - 1) / 2) * WIDE, number * HIGH, 0.1 + 0.043 * longest, text)
    return boxes


def draw(graph: Graph, task: str = TASK) -> Any:
    """A matplotlib figure: slots as boxes, the task at the bottom, levels as arrows from strategy to optimizee."""
    from matplotlib.figure import Figure

    boxes = _boxes(graph, task)
    notes: dict[tuple[str, str], list[str]] = {}
    for number, level in enumerate(graph.levels, 1):
        only = f" {', '.join(level.only)}" if level.only else ""
        words = textwrap.wrap(how(level), 30)
        notes.setdefault((level.by, level.moves), []).append("\n".join([f"level {number}{only}", *words]))
    loops = any(by == moves for by, moves in notes)
    slanted = max(abs(b.x) for b in boxes.values()) > 0
    left = min(min(b.x - b.half for b in boxes.values()) - 0.3, -2.8 if slanted else 0)
    right = max(max(b.x + b.half for b in boxes.values()) + (2.8 if loops else 0.3), 2.4)
    low, high = -0.5, max(b.y for b in boxes.values()) + 0.5
    figure = Figure(figsize=(right - left, high - low))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    for (by, moves), texts in notes.items():
        draw_arrow = _loop if by == moves else _arrow
        draw_arrow(axes, boxes[by], boxes[moves], "\n".join(texts))
    for name, box in boxes.items():
        frame = {"boxstyle": "round,pad=0.5", "facecolor": TASK_PAPER if name == TASK else PAPER, "edgecolor": LINE}
        axes.text(box.x, box.y, box.text, ha="center", va="center", fontsize=10, color=INK, bbox=frame, zorder=3)
    return figure


def _arrow(axes: Axes, start: Box, end: Box, text: str) -> None:
    """Draw an arrow from the bottom of one box to the top of another; bowed to the left if boxes may lie between."""
    from matplotlib.patches import FancyArrowPatch

    far = abs(start.y - end.y) > 1.5 * HIGH or start.y < end.y
    down = -1 if start.y > end.y else 1
    ends = ((start.x, start.y + 0.26 * down), (end.x, end.y - 0.26 * down))
    if far:
        ends = ((start.x - start.half, start.y), (end.x - end.half, end.y))
    bow = "arc3,rad=0.5" if far else "arc3,rad=0"
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=13, color=LINE, lw=1.3, connectionstyle=bow))
    x, y = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
    if far:
        x -= 0.25 * abs(ends[0][1] - ends[1][1])
    outside = -1 if x < -0.1 else 1
    away = 0.14 if start.x == end.x else 0.36
    _note(axes, x + away * outside, y, text, outside)


def _loop(axes: Axes, box: Box, _: Box, text: str) -> None:
    """Draw an arrow from a box to itself, at its right."""
    from matplotlib.patches import FancyArrowPatch

    x = box.x + box.half + 0.04
    ends = ((x, box.y + 0.1), (x, box.y - 0.1))
    patch = FancyArrowPatch(
        *ends, arrowstyle="-|>", mutation_scale=13, color=LINE, lw=1.3, connectionstyle="arc3,rad=-2.2"
    )
    axes.add_patch(patch)
    _note(axes, x + 0.4, box.y, text)


def _note(axes: Axes, x: float, y: float, text: str, side: int = 1) -> None:
    """Write a level's number and settings to the right of ``x`` or (``side`` −1) to the left."""
    ground = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(
        x,
        y,
        text,
        ha="left" if side > 0 else "right",
        va="center",
        fontsize=8,
        color=SOFT,
        bbox=ground,
        zorder=2,
        linespacing=1.25,
    )


def draw_file(graph: Graph, path: Path, task: str = TASK) -> None:
    """Write the plot to ``path`` (``.svg`` or ``.png``). Raises RecoptError for another ending."""
    if path.suffix not in (".svg", ".png"):
        raise RecoptError(f"A graph is drawn to .svg or .png, not '{path.name}': change the ending.")
    draw(graph, task).savefig(path, dpi=150)
