"""The panels of a run: losses, metrics, hyperparameters, signals and budget; all of them in one figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..diagnosis.view import LevelView
from ..tracking.trace import Points, Trace
from .style import (
    BAD,
    COLOURS,
    INK,
    PALE,
    curve,
    draw_lines,
    figure,
    heading,
    label,
    legend,
    mark_divergence,
    noted,
    plain,
    scale,
    some,
)

_TRAIN, _VALID, _TEST = "#0072B2", "#D55E00", "#000000"
_LEVELS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#D55E00", "#0072B2")
_CHOOSE = "choose_"  # prefix of the scores by which a run selects its values
_NORMS = {"signal_norm": "as it comes", "normalized_norm": "normalized"}
_ACTS = {"skipped": "skipped by the guard", "restored": "taken back by the guard"}
_ROUNDED = 1e-6
"""The relative change of a hyperparameter that may be a rounding: it is written as given, and used in float32."""


def hue(level: LevelView) -> str:
    """The colour of a level in plots."""
    return _LEVELS[(level.number - 1) % len(_LEVELS)]


class Panel(NamedTuple):
    """One plot: the section that it belongs to (``losses``, ``hyperparameters``, ``signals``), and its drawing."""

    section: str
    draw: Callable[[Any], None]


class RunPanels:
    """The panels of one run.

    Args:
        trace: level 0 has ``loss``, metrics, and the held-out ``valid…`` and ``test…``.
        levels: what levels are called, and which of their keys are hyperparameters (those in ``end``).
    """

    def __init__(self, trace: Trace, levels: Sequence[LevelView] = ()) -> None:
        self.columns = [Points(*name, *trace.series(*name)) for name in list(trace.keys())]
        self.levels = levels
        self.last = max((int(column.steps[-1]) for column in self.columns), default=0)

    def panels(self) -> list[Panel]:
        """All panels that there is something to show in."""
        losses = [column for column in self.columns if column.level == 0 and "loss" in column.key]
        metrics = [c for c in self.columns if c.level == 0 and "loss" not in c.key and not c.key.startswith(_CHOOSE)]
        scores = self._of(f"{_CHOOSE}score", task=True)
        found = []
        if losses:
            found.append(Panel("losses", partial(self._losses, found=losses)))
        if metrics:
            found.append(Panel("losses", partial(_draw_columns, found=metrics, title="Metrics", unit="")))
        if scores:
            found.append(Panel("losses", partial(_draw_score, column=scores[0])))
        if meta := [(column, self._level(column.level)) for column in self._of("meta_loss")]:
            lines = [(column, level.title, hue(level)) for column, level in meta]
            found.append(Panel("losses", partial(draw_lines, lines=lines, title="Meta-loss", unit="meta-loss")))
        found += [Panel("hyperparameters", partial(self._hyper, column=column)) for column in self._hypers(moved=True)]
        found += [Panel("hyperparameters", partial(self._hyper, column=column)) for column in self._told()]
        for level in self.levels:
            own = [c for key in _NORMS for c in self._of(key) if c.level == level.number]
            lines = [(c, _NORMS[c.key], colour) for c, colour in zip(own, (PALE, hue(level)), strict=False)]
            title = f"Signal of {level.title}"
            found += [Panel("signals", partial(draw_lines, lines=lines, title=title, unit="norm"))] if own else []
        return found

    def _of(self, key: str, task: bool = False) -> list[Points]:
        return [column for column in self.columns if column.key == key and (column.level == 0) == task]

    def _hypers(self, moved: bool) -> list[Points]:
        """The hyperparameters that moved, or those that did not, from before the first step to after the last."""
        found = []
        for level in self.levels:
            for key, end in level.end.items():
                own = [c for c in self.columns if (c.level, c.key) == (level.number, key)]
                parts = [(c.steps, c.values) for c in own] + [(np.array([self.last]), np.array([end]))]
                begin = level.start.get(key, end)
                if parts[0][1][0] != begin:  # moved before its level first stepped with it
                    parts.insert(0, (np.array([0]), np.array([begin])))
                steps, values = (np.concatenate(column) for column in zip(*parts, strict=True))
                still = np.isclose(values, values[0], rtol=_ROUNDED, atol=0, equal_nan=True)
                if bool(still.all()) != moved:
                    found.append(Points(level.number, key, steps, values))
        return found

    def _told(self) -> list[Points]:
        """The numbers that rules tell of their state, as ``slot.name``."""
        return [c for c in self.columns if c.level and c.key.startswith(f"{self._level(c.level).name}.")]

    def constants(self) -> str:
        """A sentence on the hyperparameters that stayed as they were; empty if there are none."""
        still: dict[int, list[str]] = {}
        for column in self._hypers(moved=False):
            still.setdefault(column.level, []).append(f"{column.key} {column.values[0]:.4g}")
        lists = [f"{self.levels[number - 1].title}: {', '.join(values)}" for number, values in still.items()]
        return f"Not moved, {'; '.join(lists)}" if lists else ""

    def _losses(self, axes: Any, found: list[Points]) -> None:
        _draw_columns(axes, found, "Loss", "loss")
        for column in found:
            mark_divergence(axes, column)
        for n, (key, words) in enumerate(_ACTS.items()):
            if acts := [column.steps for column in self._of(key)]:
                _rug(axes, np.unique(np.concatenate(acts)), words, BAD, 0.02 + 0.05 * n)
        legend(axes)

    def _hyper(self, axes: Any, column: Points) -> None:
        level = self._level(column.level)
        scale(axes, [column.values])
        shown = some(len(column.steps))
        axes.plot(column.steps[shown], column.values[shown], color=hue(level), linewidth=1.5, drawstyle="steps-post")
        label(axes, column.key, level.title, hue(level))
        axes.set_title(f"{column.values[0]:.3g} → {column.values[-1]:.3g}", fontsize=8, color=PALE, loc="right")
        for mover in [one for one in self.levels if one.moves == level.name]:
            for trials in [c for c in self._of("accepted") if c.level == mover.number]:
                taken = trials.values > 0
                _rug(axes, trials.steps[taken], "accepted", COLOURS[2], 0.03)
                _rug(axes, trials.steps[~taken], "rejected", PALE, 0.03, "x")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7, frameon=False, loc="best", handlelength=1)

    def _level(self, number: int) -> LevelView:
        return next((level for level in self.levels if level.number == number), LevelView(number, ""))


def _draw_columns(axes: Any, found: list[Points], title: str, unit: str) -> None:
    lines = []
    for n, column in enumerate(sorted(found, key=_rank)):
        words = "training loss" if column.key == "loss" else column.key.replace("_", " ")
        colour = (_TRAIN, _VALID, _TEST, *_LEVELS)[_rank(column) + (n % 4 if _rank(column) == 3 else 0)]
        lines.append((column, words, colour))
    draw_lines(axes, lines, title, unit)


def _draw_score(axes: Any, column: Points) -> None:
    """Draw the score by which a run selects its values, with its lowest point marked."""
    values = column.values
    curve(axes, column, "of the current values", _VALID, scale(axes, [values]))
    if np.isfinite(values).any():
        best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
        axes.plot(column.steps[best], values[best], "o", color=INK, markersize=5, label="lowest")
    label(axes, "Score on fresh tasks", "score")
    legend(axes)


def plot_run(trace: Trace, title: str = "", levels: Sequence[LevelView] = ()) -> Any:
    """One ``matplotlib.figure.Figure`` of a run's losses, metrics, meta-losses and hyperparameters.

    Args:
        trace, levels: as for :class:`RunPanels`.
        title: the figure's title, such as the run's name.
    """
    run = RunPanels(trace, levels)
    panels = run.panels()
    wide = [panel for panel in panels if panel.section == "losses"]
    small = [panel for panel in panels if panel.section == "hyperparameters"]
    across = min(3, max(1, len(small)))
    heights = [3.4, *[2.6] * (len(wide) - 1)][: len(wide)] + [2.3] * -(-len(small) // across)
    made = figure(9.5, max(2.0, sum(heights) + 0.5))
    if title:
        heading(made, title)
    noted(made, run.constants())
    if not heights:
        return made
    grid = made.add_gridspec(len(heights), 6, height_ratios=heights)
    for row, panel in enumerate(wide):
        panel.draw(plain(made.add_subplot(grid[row, :])))
    for n, panel in enumerate(small):
        at = n % across * (6 // across)
        panel.draw(plain(made.add_subplot(grid[len(wide) + n // across, at : at + 6 // across])))
    for axes in made.axes:
        axes.set_xlim(-0.015 * run.last, 1.015 * max(run.last, 1))
    return made


def _rug(axes: Any, steps: Any, words: str, colour: str, height: float, mark: str = "|") -> None:
    """Mark ``steps`` near the lower edge."""
    if len(steps):
        steps = steps[some(len(steps))]
        axes.plot(steps, np.full(len(steps), height), mark, color=colour, markersize=6, label=words,
                  transform=axes.get_xaxis_transform())  # fmt: skip


def _rank(column: Points) -> int:
    """The place of a column in the order: training, validation, test, anything else."""
    prefixes = ("loss", "valid", "test")
    return next((n for n, prefix in enumerate(prefixes) if column.key.startswith(prefix)), len(prefixes))
