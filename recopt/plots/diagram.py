"""Diagrams of a graph of levels: as text, SVG or PNG."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx

from ..checking.errors import RecoptError
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.words import how, rows
from .style import figure

INK, LINE, PAPER, TASK_PAPER, SOFT = "#22313f", "#4477aa", "#e8f0f9", "#f7eeda", "#5a6b7b"
_GAP, _ROOM, _MARGIN, _PAD = 0.35, 0.42, 0.15, 0.1
"""Inches between neighbours, between rows (for the arrows), around everything, and within a box."""
_BOW = 0.3
"""Inches that an arrow past other boxes keeps from them."""
_TITLE, _WORDS = 10, 8
"""Sizes of fonts in points."""
_HINTING = 1.07
"""How much wider than their outlines letters may be drawn."""


class Box(NamedTuple):
    """A slot in the diagram: its centre and its size in inches, its title, and lines on the levels that it makes."""

    x: float
    y: float
    width: float
    height: float
    title: str
    lines: str


def draw_text(graph: Graph, task: str = TASK, width: int = 1000) -> str:
    """One line per level, the highest first: its strategy, its slot and its settings, folded at ``width`` letters.

    ``task`` is the task's name.
    """
    lines = [(number, by, f"→ {moves}", words) for number, by, moves, words in rows(graph.paces, graph.labels, task)]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    padded = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[3]]) for line in lines]
    indent = " " * (sum(widths) + 6)
    room = max(width, len(indent) + 20)
    folded = [textwrap.fill(line, room, subsequent_indent=indent, drop_whitespace=True) for line in padded]
    return "\n".join(line.rstrip() for line in folded)


def draw(graph: Graph, task: str = TASK) -> Any:
    """A matplotlib figure: slots as boxes, the task at the bottom, levels as numbered arrows to what they move."""
    boxes = _boxes(graph, task)
    arrows = dict.fromkeys((level.by, level.moves) for level in graph.levels)
    numbers: dict[tuple[str, str], list[int]] = {arrow: [] for arrow in arrows}
    for number, level in enumerate(graph.levels, 1):
        numbers[level.by, level.moves].append(number)
    edge = max(box.x + box.width / 2 for box in boxes.values())
    bowed = [arrow for arrow in arrows if _passes(boxes, *arrow)]
    lanes = {arrow: edge + _BOW * (n + 1) for n, arrow in enumerate(bowed)}
    loops = any(by == moves for by, moves in arrows)
    left = min(box.x - box.width / 2 for box in boxes.values()) - _MARGIN
    right = max([edge + (2 * _BOW if loops else 0), *lanes.values()]) + _MARGIN + (0.1 if lanes or loops else 0)
    low = min(box.y - box.height / 2 for box in boxes.values()) - _MARGIN
    high = max(box.y + box.height / 2 for box in boxes.values()) + _MARGIN
    made = figure(right - left, high - low)
    made.set_layout_engine("none")
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    for name, box in boxes.items():
        _draw_box(axes, box, TASK_PAPER if name == TASK else PAPER)
    for (by, moves), found in numbers.items():
        _draw_arrow(axes, boxes[by], boxes[moves], ", ".join(map(str, found)), lanes.get((by, moves)))
    return made


def draw_file(graph: Graph, path: Path, task: str = TASK) -> None:
    """Write the diagram to ``path`` (``.svg`` or ``.png``). Raises RecoptError for another ending."""
    if path.suffix not in (".svg", ".png"):
        raise RecoptError(f"A graph is drawn to .svg or .png, not '{path.name}': change the ending.")
    draw(graph, task).savefig(path, dpi=150)


def _heights(graph: Graph) -> dict[str, int]:
    """The row of each slot, counted from the task: above all that it moves, where cycles are one."""
    network = nx.DiGraph(graph.network())
    groups = nx.condensation(network)
    heights: dict[str, int] = {}
    for group in reversed(list(nx.topological_sort(groups))):
        below = [heights[name] for n in groups.successors(group) for name in groups.nodes[n]["members"]]
        base = max(below, default=-1) + 1
        # Within a cycle, the order in which its slots first appear.
        slots = sorted(groups.nodes[group]["members"], key=list(network).index)
        heights |= {name: base + n for n, name in enumerate(slots)}
    for level in graph.levels:
        if level.teacher is not None:
            heights[level.teacher] = heights[level.teacher] or heights[level.moves]
    return heights


def _boxes(graph: Graph, task: str) -> dict[str, Box]:
    grid: dict[int, list[str]] = {}
    heights = _heights(graph)
    for name in graph.network():
        grid.setdefault(heights[name], []).append(name)
    boxes, y = {}, 0.0
    for _, names in sorted(grid.items()):
        row = {name: _box(graph, name, task) for name in names}
        tallest = max(box.height for box in row.values())
        x = -(sum(box.width for box in row.values()) + _GAP * (len(row) - 1)) / 2
        for name, box in row.items():
            boxes[name] = box._replace(x=x + box.width / 2, y=y + tallest / 2)
            x += box.width + _GAP
        y += tallest + _ROOM
    return boxes


def _box(graph: Graph, name: str, task: str) -> Box:
    """The box of a slot, somewhere."""
    title = "\n".join(_wrapped(task if name == TASK else graph.labels.get(name, name), 34))
    many = sum(level.by == name for level in graph.levels) > 1
    lines = []
    for number, level in enumerate(graph.levels, 1):
        if level.by == name:
            only = f" on {', '.join(level.only)}" if level.only else ""
            where = f" → {task if level.moves == TASK else level.moves}" if many else ""
            lines += _wrapped(
                ": ".join(filter(None, [f"level {number}{where}{only}", how(graph.paces, number - 1)])), 44
            )
        elif level.teacher == name:
            lines.append(f"teacher of level {number}")
    words = "\n".join(lines)
    (wide, high), (wider, higher) = _size(title, _TITLE), _size(words, _WORDS)
    return Box(0, 0, max(wide, wider) + 2 * _PAD, high + higher + (2.5 if words else 2) * _PAD, title, words)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=True) or [text]


def _size(text: str, size: int) -> tuple[float, float]:
    """Width and height of a text in inches."""
    if not text:
        return 0.0, 0.0
    from matplotlib.textpath import TextPath

    lines = text.split("\n")
    width = max(TextPath((0, 0), line, size=size).get_extents().width for line in lines)
    return _HINTING * width / 72, len(lines) * size / 55


def _draw_box(axes: Any, box: Box, paper: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (box.x - box.width / 2, box.y - box.height / 2)
    style = f"round,pad=0,rounding_size={_PAD}"
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=style, facecolor=paper, edgecolor=LINE))
    top = box.y + box.height / 2 - _PAD
    at = {"ha": "center", "va": "top", "linespacing": 1.15}
    axes.text(box.x, top if box.lines else box.y, box.title, fontsize=_TITLE, color=INK,
              **(at if box.lines else {**at, "va": "center"}))  # fmt: skip
    if box.lines:
        below = top - _size(box.title, _TITLE)[1] - _PAD / 2
        axes.text(box.x, below, box.lines, fontsize=_WORDS, color=SOFT, **at)


def _passes(boxes: dict[str, Box], by: str, moves: str) -> bool:
    """True if an arrow would run over other boxes, or upwards."""
    start, end = boxes[by], boxes[moves]
    return by != moves and (start.y <= end.y or any(end.y < box.y < start.y for box in boxes.values()))


def _draw_arrow(axes: Any, start: Box, end: Box, number: str, lane: float | None) -> None:
    """Draw an arrow with the numbers of its levels: straight, in a ``lane`` (x) beside all boxes, or to itself."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    right, to = start.x + start.width / 2, end.x + end.width / 2
    if start is end:
        bend, reach = right + 2 * _BOW, start.height / 2
        points = [(right, start.y + reach / 2), (bend, start.y + reach), (bend, start.y - reach),
                  (right, start.y - reach / 2)]  # fmt: skip
        middle = (right + 1.5 * _BOW, start.y)
    elif lane is not None:
        points = [(right, start.y), (lane + 0.1, start.y), (lane + 0.1, end.y), (to, end.y)]
        middle = ((right + to) / 8 + 0.75 * (lane + 0.1), (start.y + end.y) / 2)
    else:
        top, bottom = (start.x, start.y - start.height / 2), (end.x, end.y + end.height / 2)
        half = (top[1] + bottom[1]) / 2
        points = [top, (top[0], half), (bottom[0], half), bottom]
        middle = ((top[0] + bottom[0]) / 2, half)
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    axes.add_patch(FancyArrowPatch(path=Curve(points, codes), arrowstyle="-|>", mutation_scale=11, color=LINE, lw=1.3))
    ground = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": LINE, "linewidth": 0.7}
    axes.text(*middle, number, ha="center", va="center", fontsize=_WORDS, color=INK, bbox=ground, zorder=4)
