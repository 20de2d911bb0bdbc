"""The plots of comparisons: loss curves with bands, scores with intervals, and a series of them side by side."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .style import COLOURS, INK, colour, figure, heading, labelled, plain, spread_out

_DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
_WIDE = 3.0
"""The ratio of scores from which a series gets a logarithmic axis."""
_INSIDE = 6
"""The most competitors for which the legend of a series stands inside the plot."""
_NAME = 34
"""Letters of a line of a name in a plot."""


class Curve(NamedTuple):
    """One competitor: the bands of its loss at every step, and its score.

    Attributes:
        bands: ``median``, ``quartile1`` and ``quartile3`` over tasks, each of shape (T + 1,).
        mean, median: the score's mean and median, each with the ends of its interval.
    """

    name: str
    bands: Mapping[str, NDArray[np.float64]]
    mean: tuple[float, float, float]
    median: tuple[float, float, float]


def plot(title: str, steps: int, measure: str, shown: Sequence[Curve]) -> Any:
    """A ``matplotlib.figure.Figure`` of a comparison: ``figure.savefig(path)``.

    Args:
        measure: the name of the score, in words.
    """
    made = figure(11, max(4.2, 1.6 + 0.42 * len(shown)))
    heading(made, title)
    curves, scores = made.subplots(1, 2, width_ratios=(3, 2))
    draw_curves(plain(curves), shown, steps)
    _scores(plain(scores), shown, measure)
    return made


def plots(steps: int, measure: str, shown: Sequence[Curve]) -> list[Any]:
    """The same in two figures that a narrow page has room for: curves, and scores."""
    made = [figure(4.4, max(2.8, 1.2 + 0.42 * len(shown))) for _ in range(2)]
    curves, scores = (plain(one.subplots()) for one in made)
    draw_curves(curves, shown, steps)
    _scores(scores, shown, measure)
    return made


def plot_series(rows: Sequence[str], ratios: Mapping[str, Mapping[str, tuple[float, float, float]]], whom: str) -> Any:
    """A ``matplotlib.figure.Figure`` with a group for each comparison; 1 is the reference's score in that one.

    Args:
        rows: the comparisons.
        ratios: by competitor and comparison, the ratio to the reference's score with the ends of its interval.
        whom: the reference in words.
    """
    from matplotlib.ticker import FuncFormatter

    many = len(ratios)
    made = figure(max(7.0, 1.3 * len(rows) + 3), 4.6)
    axes = plain(made.subplots())
    for n, (name, own) in enumerate(ratios.items()):
        at = np.array([k for k, row in enumerate(rows) if row in own]) + 0.6 * ((n + 0.5) / many - 0.5)
        middle, low, high = np.array([own[row] for row in rows if row in own]).T
        reach = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
        # Points without lines between them: the comparisons have no order.
        axes.errorbar(at, middle, yerr=reach, fmt="o", color=colour(n), markersize=5, elinewidth=1.8,
                      label=_folded(name))  # fmt: skip
    axes.axhline(1.0, color="#777777", linewidth=0.8, zorder=0)
    for k in range(1, len(rows)):
        axes.axvline(k - 0.5, color="#CCCCCC", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.grid(False, axis="x")
    if spread_out([ratio for own in ratios.values() for ratio, *_ in own.values()], _WIDE):
        axes.set_yscale("log")
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
    labelled(axes, f"Score relative to {whom} (below 1 is better), with 95 % intervals", "")
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if many > _INSIDE else {}
    axes.legend(fontsize=8, frameon=False, **beside)
    return made


def draw_curves(axes: Any, shown: Sequence[Curve], last: int, unit: str = "step") -> None:
    """Draw the median of each with the middle half of the tasks, over ``last`` of ``unit``."""
    banded = len(shown) <= len(COLOURS)  # more bands would hide the curves
    for n, one in enumerate(shown):
        steps, kept = np.arange(len(one.bands["median"])), one.bands
        if banded:
            axes.fill_between(steps, kept["quartile1"], kept["quartile3"], color=colour(n), alpha=0.13, linewidth=0)
        axes.plot(steps, kept["median"], color=colour(n), linestyle=dashes(n), linewidth=1.7, label=_folded(one.name))
    middle = np.concatenate([one.bands["median"] for one in shown])
    if spread_out(middle):
        low = min(one.bands["quartile1"].min() for one in shown)
        axes.set_yscale("log")
        axes.set_ylim(max(low, middle.min() / 10), None)
    labelled(axes, f"Training loss: median{', and the middle half of the tasks' if banded else ''}", unit)
    axes.set_xlim(0, last)
    axes.legend(fontsize=8, frameon=False)


def _scores(axes: Any, shown: Sequence[Curve], measure: str) -> None:
    rows = sorted(range(len(shown)), key=lambda n: -shown[n].mean[0])
    for place, n in enumerate(rows):
        (mean, *ends), (median, *_) = shown[n].mean, shown[n].median
        low, high = np.nan_to_num(ends, nan=mean)
        axes.plot([low, high], [place, place], color=colour(n), linewidth=2.4, solid_capstyle="butt")
        axes.plot(mean, place, "o", color=colour(n), markersize=6)
        axes.plot(median, place, "|", color=colour(n), markersize=10, markeredgewidth=2)
        axes.annotate(f"{mean:.4g}", (mean, place), xytext=(0, 7), textcoords="offset points", fontsize=8,
                      color=INK, ha="center")  # fmt: skip
    axes.set_yticks(range(len(rows)), [_folded(shown[n].name) for n in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.margins(x=0.12)
    if spread_out([interval[0] for one in shown for interval in (one.mean, one.median)]):
        axes.set_xscale("log")
    labelled(axes, measure, "● mean with its 95 % interval, | median")


def _folded(name: str) -> str:
    """A name in lines of about ``_NAME`` letters, broken between levels where that is possible."""
    lines = [""]
    for piece in re.split(r"(?<=[/+|])", name):
        for part in textwrap.wrap(piece, _NAME) or [""]:
            lines = [*lines[:-1], lines[-1] + part] if len(lines[-1] + part) <= _NAME else [*lines, part]
    return "\n".join(line for line in lines if line)


def dashes(n: int) -> Any:
    """The dashes of competitor ``n``, which differ between competitors of the same colour."""
    return _DASHES[(n % len(COLOURS) + n // len(COLOURS)) % len(_DASHES)]
