"""Elements of all plots: figures, columns as lines and bands, scales, labels, legends.

Drawn with matplotlib's own objects, without pyplot: no global state, no window, safe in any thread.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tracking.thinning import Floats, Ints
from ..tracking.trace import Points

BAD, INK, PALE = "#B00020", "#333333", "#767676"
# Okabe & Ito (2008): colours that people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MANY = 600
"""Longer columns are drawn as a band and a smoothed line."""
_LINE, _WIDEST, _HANDLE = 44, 66, 6
"""Letters beside each other above a panel with its title, and without; those that a legend's line takes the room of."""
LOG_FROM = 20.0
"""The ratio of the largest to the smallest value from which a positive column gets a logarithmic axis."""


def figure(width: float, height: float) -> Any:
    """A ``matplotlib.figure.Figure`` of so many inches with an Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def colour(n: int) -> str:
    """The colour of curve ``n``."""
    return COLOURS[n % len(COLOURS)]


def heading(made: Any, title: str) -> None:
    """Put a title above a figure, in as many lines as its width asks for."""
    lines = textwrap.wrap(title, int(10 * made.get_figwidth()))
    made.suptitle("\n".join(lines), fontsize=12, fontweight="bold", color=INK, x=0.01, ha="left")


def noted(made: Any, text: str) -> None:
    """Put a remark below a figure, in as many lines as its width asks for; nothing where there is none."""
    if text:
        lines = textwrap.wrap(text, int(13.7 * made.get_figwidth()))
        made.supxlabel("\n".join(lines), fontsize=8, color=PALE, x=0.012, ha="left")


def plain(axes: Any) -> Any:
    """Set no frame, a pale grid, and small tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#AAAAAA")
    axes.grid(True, color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, labelcolor=INK, color="#AAAAAA")
    axes.tick_params(which="minor", length=0)
    return axes


def curve(axes: Any, column: Points, label: str, colour: str, log: bool) -> None:
    """Draw a column; if it has many points, they are pale under a smoothed line (see :func:`smoothed`)."""
    steps, values = column.steps, column.values
    if len(values) <= 2:  # a line would suggest values between that nobody measured
        axes.plot(steps, values, color=colour, linestyle="none", marker="D", markersize=4.5, label=label)
        return
    if len(values) <= 100:
        axes.plot(steps, values, color=colour, linewidth=1.4, marker="o", markersize=2.5, label=label)
        return
    if len(values) > MANY:
        middle, low, high = _bands(steps, values)
        axes.fill_between(middle, low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
    smooth, shown = smoothed(values, max(1, len(values) // 100), log), some(len(values))
    axes.plot(steps[shown], smooth[shown], color=colour, linewidth=1.6, label=label)


def some(length: int) -> Ints:
    """Indices of at most ``MANY`` evenly spread points, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, MANY)).astype(np.int64))


def smoothed(values: Floats, reach: int, log: bool = False) -> Floats:
    """Centred moving average of ``values`` (n,), over up to ``reach`` on either side; geometric with ``log``.

    Values that are not finite (with ``log``, also not above 0) are left out and stay gaps.
    """
    good = np.isfinite(values) & ((values > 0) if log else True)
    used = np.where(good, np.log(np.where(good, values, 1.0)) if log else values, 0.0)
    sums, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (used, good.astype(float)))
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    mean = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1.0)
    return np.where(good, np.exp(mean) if log else mean, np.nan)


def _bands(steps: Ints, values: Floats) -> tuple[Floats, Floats, Floats]:
    """First step, least and greatest finite value of each of 300 pieces of a column."""
    cuts, good = np.linspace(0, len(values), 301).astype(np.int64)[:-1], np.isfinite(values)
    low = np.minimum.reduceat(np.where(good, values, np.inf), cuts)
    high = np.maximum.reduceat(np.where(good, values, -np.inf), cuts)
    some = low <= high
    return steps[cuts][some].astype(np.float64), low[some], high[some]


def mark_divergence(axes: Any, column: Points) -> None:
    """Draw a line at the first value of ``column`` that is not finite."""
    bad = column.steps[~np.isfinite(column.values)]
    if len(bad):
        axes.axvline(bad[0], color=BAD, linewidth=1, linestyle="--")
        axes.annotate(f" not finite at {bad[0]:,}", (bad[0], 0.97), xycoords=("data", "axes fraction"), color=BAD,
                      fontsize=8, va="top")  # fmt: skip


def spread_out(values: Sequence[float] | Floats, ratio: float = LOG_FROM) -> bool:
    """True if finite values are positive and so far apart that they want a logarithmic axis."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    return bool(len(found)) and bool(found.min() > 0) and bool(found.max() / found.min() >= ratio)


def scale(axes: Any, columns: list[Floats]) -> bool:
    """Make the axis logarithmic if all values are positive and far apart. Returns True if it is."""
    values = np.concatenate(columns)
    log = spread_out(values)
    if log:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        values = values[np.isfinite(values)]
        subs = (1.0,) if values.max() / values.min() > 1e3 else (1.0, 2.0, 5.0)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    else:
        from matplotlib.ticker import FuncFormatter

        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    return log


def _tick(value: float, _: int) -> str:
    """A number at an axis: as text, not as a formula, and short."""
    large = abs(value) >= 1e5
    text = np.format_float_scientific(value, precision=4, trim="-", exp_digits=1) if large else f"{value:.5g}"
    return text.replace("e+", "e").replace("e-0", "e-")


def labelled(axes: Any, title: str, x: str) -> None:
    """Set a title and a label of x."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=8, color=PALE)


def label(axes: Any, title: str, y: str, colour: str = PALE) -> None:
    """Set a title, a label of y, and whole steps along x."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    labelled(axes, title, "step")
    axes.set_ylabel(y, fontsize=8, color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def legend(axes: Any) -> None:
    """Put the legend above the panel, on the right, where it hides nothing."""
    _, labels = axes.get_legend_handles_labels()
    title = axes.get_title(loc="left")
    wide = sum(len(text) + _HANDLE for text in labels)
    if wide > _WIDEST:
        axes.legend(fontsize=7, frameon=False, loc="best", labelcolor=INK, handlelength=1.6)
        return
    if len(title) + wide > _LINE:  # then the title stands above the legend
        axes.set_title(title, fontsize=10, color=INK, loc="left", pad=18)
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.99), borderaxespad=0.2,
                ncols=min(4, len(labels)), labelcolor=INK, handlelength=1.6, columnspacing=1.4)  # fmt: skip


def draw_lines(
    axes: Any, lines: Sequence[tuple[Points, str, str]], title: str, unit: str, most: float = math.inf
) -> None:
    """Draw columns, each with its name and colour, on a common scale; more than ``most`` get no legend."""
    log = scale(axes, [column.values for column, _, _ in lines])
    for column, name, colour in lines:
        curve(axes, column, name, colour, log)
    label(axes, title, unit)
    if len(lines) <= most:
        legend(axes)
