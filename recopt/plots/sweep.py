"""The plot of a sweep: the score over each setting, the best so far, and the rungs of trials that were stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .style import BAD, PALE, colour, figure, heading, labelled, plain, spread_out

_PANELS = 9
"""The most panels; settings beyond are left out."""
_ACROSS = 3
_MARKED = {"stopped": PALE, "failed": BAD, "diverged": BAD, "frozen": BAD}


class Point(NamedTuple):
    """One trial: its number, settings, score and outcome, and the step and score of each rung that it reached."""

    number: int
    settings: Mapping[str, Any]
    score: float
    outcome: str
    curve: Sequence[tuple[int, float]]


def plot_sweep(title: str, score: str, most: bool, logs: Mapping[str, bool], points: Sequence[Point]) -> Any:
    """A ``matplotlib.figure.Figure`` of a sweep.

    Args:
        score: its name; ``most``: whether the greatest is the best.
        logs: the settings, with whether their axis is logarithmic.
    """
    shown = list(logs)[: _PANELS - 1]
    count = len(shown) + 1
    across = min(_ACROSS, count)
    made = figure(4.2 * across + 0.4, 3.1 * math.ceil(count / across) + 0.6)
    heading(made, f"{title} (★ the best)")
    panels = np.atleast_1d(made.subplots(math.ceil(count / across), across)).ravel()
    rungs = any(len(one.curve) > 1 for one in points)
    (_rungs if rungs else _best_so_far)(plain(panels[0]), points, most)
    known = [one for one in points if math.isfinite(one.score)]
    best = min((one for one in known if one.outcome == "finished"), key=lambda one: -one.score if most else one.score,
               default=None)  # fmt: skip
    for panel, name in zip(panels[1:count], shown, strict=True):
        _over(plain(panel), name, logs[name], [one for one in known if name in one.settings], best)
    for panel in panels[:count]:
        if spread_out([one.score for one in known]):
            panel.set_yscale("log")
        panel.set_ylabel(score, fontsize=8, color=PALE)
    for panel in panels[count:]:
        panel.set_visible(False)
    return made


def _over(axes: Any, name: str, log: bool, points: Sequence[Point], best: Point | None) -> None:
    """The scores over one setting; its values are evenly spaced where they are no numbers."""
    values = [one.settings[name] for one in points]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    names = list(dict.fromkeys(map(str, values)))
    at = [float(value) if numbers else names.index(str(value)) for value in values]
    for x, one in zip(at, points, strict=True):
        axes.plot(x, one.score, "o", markersize=4, color=_MARKED.get(one.outcome, colour(0)), alpha=0.7)
        if one is best:
            axes.plot(x, one.score, "*", markersize=13, color=colour(1), zorder=3)
    if log and numbers:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # as text, not as a formula
    if not numbers:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.2)
    labelled(axes, name, "")


def _best_so_far(axes: Any, points: Sequence[Point], most: bool) -> None:
    known = [one for one in points if math.isfinite(one.score)]
    numbers, scores = [one.number for one in known], np.array([one.score for one in known])
    axes.plot(numbers, scores, "o", markersize=3, color=PALE, alpha=0.7)
    if known:
        best = np.maximum.accumulate(scores) if most else np.minimum.accumulate(scores)
        axes.step(numbers, best, where="post", color=colour(1), linewidth=1.7)
    labelled(axes, "Every trial, and the best so far", "trial")


def _rungs(axes: Any, points: Sequence[Point], most: bool) -> None:
    """The way of each trial from rung to rung."""
    for one in points:
        if one.curve:
            steps, scores = zip(*one.curve, strict=True)
            over = one.outcome == "finished"
            axes.plot(steps, scores, marker="o", markersize=3, linewidth=1.2 if over else 0.7,
                      color=colour(0) if over else PALE, alpha=0.9 if over else 0.5)  # fmt: skip
    axes.set_xscale("log")
    rungs = sorted({step for one in points for step, _ in one.curve})
    axes.set_xticks(rungs, [f"{step:,}" for step in rungs])
    axes.minorticks_off()
    labelled(axes, "Trials from rung to rung", "step")
