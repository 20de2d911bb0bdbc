"""The plot of a series: each competitor's score relative to the reference's, comparison by comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .comparison import colour, plain

_WIDE = 3.0
_INSIDE = 6
"""The most competitors for which the legend stands inside the plot."""


def plot(rows: Sequence[str], ratios: Mapping[str, Mapping[str, tuple[float, float, float]]], whom: str) -> Any:
    """A ``matplotlib.figure.Figure`` with a group for each comparison; 1 is the reference's score in that one.

    Args:
        rows: the comparisons.
        ratios: by competitor and comparison, the ratio to the reference's score with the ends of its interval.
        whom: the reference in words.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    names = list(ratios)
    figure = Figure(figsize=(max(7.0, 1.3 * len(rows) + 3), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for n, name in enumerate(names):
        own = ratios[name]
        at = np.array([k for k, row in enumerate(rows) if row in own]) + 0.4 * ((n + 0.5) / len(names) - 0.5)
        middle, low, high = np.array([own[row] for row in rows if row in own]).T
        reach = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
        axes.errorbar(at, middle, yerr=reach, fmt="o-", color=colour(n), markersize=5, linewidth=0.8, elinewidth=1.8,
                      label=name if len(name) <= 34 else f"{name[:31]} …")  # fmt: skip
    axes.axhline(1.0, color="#777777", linewidth=0.8, zorder=0)
    values = [ratio for own in ratios.values() for ratio, *_ in own.values()]
    if min(values) > 0 and max(values) / min(values) > _WIDE:
        axes.set_yscale("log")
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
    plain(axes, f"Score relative to {whom} (below 1 is better), with 95 % intervals", "")
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(names) > _INSIDE else {}
    axes.legend(fontsize=8, frameon=False, **beside)
    return figure
