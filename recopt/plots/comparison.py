"""The plot of a comparison: loss curves with bands, and the score of each competitor with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Okabe & Ito (2008): colours that people with any kind of colour vision can tell apart; lines differ in dashes too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
_INK = "#333333"
_LOG_FROM = 20.0


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

    @property
    def label(self) -> str:
        """The name, shortened if it is long."""
        return self.name if len(self.name) <= 34 else f"{self.name[:31]} …"


def plot(title: str, steps: int, measure: str, shown: Sequence[Curve]) -> Any:
    """A ``matplotlib.figure.Figure`` with an Agg canvas: ``figure.savefig(path)``.

    Args:
        measure: the name of the score, in words.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    many = len(shown)
    figure = Figure(figsize=(11, max(4.2, 1.6 + 0.42 * many)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, color=_INK, x=0.01, ha="left")
    curves, scores = figure.subplots(1, 2, width_ratios=(3, 2))
    _curves(curves, shown, steps)
    _scores(scores, shown, measure)
    return figure


def _curves(axes: Any, shown: Sequence[Curve], last: int) -> None:
    drawn = [one.bands for one in shown]
    for n, kept in enumerate(drawn if len(drawn) <= len(_COLOURS) else []):  # more bands would hide the curves
        steps = np.arange(len(kept["median"]))
        axes.fill_between(steps, kept["quartile1"], kept["quartile3"], color=colour(n), alpha=0.13, linewidth=0)
    for n, (one, kept) in enumerate(zip(shown, drawn, strict=True)):
        steps = np.arange(len(kept["median"]))
        axes.plot(steps, kept["median"], color=colour(n), linestyle=dashes(n), linewidth=1.7,
                  label=one.label)  # fmt: skip
    middle = np.concatenate([kept["median"] for kept in drawn])
    if middle.min() > 0 and middle.max() / middle.min() >= _LOG_FROM:
        low = min(kept["quartile1"].min() for kept in drawn)
        axes.set_yscale("log")
        axes.set_ylim(max(low, middle.min() / 10), None)
    bands_too = ", and the middle half of the tasks" if len(drawn) <= len(_COLOURS) else ""
    plain(axes, f"Training loss: median{bands_too}", "step")
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
                      color=_INK, ha="center")  # fmt: skip
    axes.set_yticks(range(len(rows)), [shown[n].label for n in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    values = [interval[0] for one in shown for interval in (one.mean, one.median)]
    if min(values) > 0 and max(values) / min(values) >= _LOG_FROM:
        axes.set_xscale("log")
    plain(axes, f"{measure}: mean (●, 95 %) and median (|)", "")


def colour(n: int) -> str:
    """The colour of competitor ``n``."""
    return _COLOURS[n % len(_COLOURS)]


def dashes(n: int) -> Any:
    """The dashes of competitor ``n``, which differ between competitors of the same colour."""
    return _DASHES[(n % len(_COLOURS) + n // len(_COLOURS)) % len(_DASHES)]


def plain(axes: Any, title: str, x: str) -> None:
    """Set a title, a label of x, a pale grid, and no frame."""
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK)
