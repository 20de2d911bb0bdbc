"""The plot of an ablation: the losses of each depth, and its scores by the scale of the start values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .comparison import Curve, dashes, draw_curves
from .style import colour, figure, heading, labelled, plain, spread_out

_MEAN = (0.0, 0.0, 0.0)


class Line(NamedTuple):
    """One depth.

    Attributes:
        bands: ``median``, ``quartile1`` and ``quartile3`` of the losses over seeds, each of shape (T + 1,).
        scores: by layer and scale of its start values, the mean score with the ends of its interval.
    """

    name: str
    bands: Mapping[str, NDArray[np.float64]]
    scores: Mapping[int, Mapping[float, tuple[float, float, float]]]


def plot_ablation(title: str, evaluations: int, measure: str, lines: Sequence[Line]) -> Any:
    """A ``matplotlib.figure.Figure``; ``measure`` is the score in words."""
    made = figure(11, 4.2)
    heading(made, title)
    curves, starts = (plain(axes) for axes in made.subplots(1, 2, width_ratios=(3, 2)))
    draw_curves(curves, [Curve(one.name, one.bands, _MEAN, _MEAN) for one in lines], evaluations, "evaluation")
    for n, one in enumerate(lines):
        for layer, scores in one.scores.items():
            middle, low, high = np.array(list(scores.values())).T
            reach = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
            starts.errorbar(list(scores), middle, yerr=reach, fmt="o", markersize=4, color=colour(n), label=one.name +
                            f", start of level {layer}", linestyle=dashes(layer - 1))  # fmt: skip
    starts.set_xscale("log")
    if spread_out([x[0] for one in lines for scores in one.scores.values() for x in scores.values()]):
        starts.set_yscale("log")
    labelled(starts, measure, "start values, times what they are")
    if starts.get_legend_handles_labels()[1]:
        starts.legend(fontsize=7, frameon=False)
    return made
