"""Plots of a run: its losses, metrics, meta-losses and hyperparameters.

Drawn with matplotlib's own objects, without pyplot: no global state, no window, safe in any thread.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..tracking.trace import Points, Trace
from .style import BAD, INK, PALE, curve, figure, heading, label, legend, mark_divergence, plain, scale, some

FIGURES = frozenset(
    {
        "meta_loss",
        "update_norm",
        "signal_norm",
        "normalized_norm",
        "accepted",
        "spread",
        "restored",
        "frozen",
        "resized",
        "null_step",
        "episode",
        "imitation",
    }
)
"""Keys that a level records besides its hyperparameters; any other key of a level is a hyperparameter."""

# Okabe & Ito (2008): eight colours that people with any kind of colour vision can tell apart.
_TRAIN, _VALID, _TEST = "#0072B2", "#D55E00", "#000000"
_LEVELS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#D55E00", "#0072B2")
_CHOOSE = "choose_"  # prefix of the scores by which a run selects its values

Draw = Callable[[Any], None]


def plot_run(trace: Trace, title: str = "", levels: Mapping[int, str] | None = None) -> Any:
    """One figure of everything: losses, metrics, meta-losses and hyperparameters.

    Args:
        trace: the run's trace; level 0 has ``loss``, metrics, and the held-out ``valid…`` and ``test…``.
        title: the figure's title, such as the run's name.
        levels: a name for each level, shown beside its number.

    Returns:
        A ``matplotlib.figure.Figure`` with an Agg canvas: ``figure.savefig(path)``.
    """
    run, names = _columns(trace), levels or {}
    return _figure(run, _curves(run, names), _hypers(run, names), title, _constants(run, names))


def save_plots(trace: Trace, folder: Path, title: str = "", levels: Mapping[int, str] | None = None) -> list[Path]:
    """Write ``loss.png`` and, if there are hyperparameters, ``hyperparameters.png`` into ``folder``.

    Arguments as for :func:`plot_run`. Returns the files written.
    """
    run, names, saved = _columns(trace), levels or {}, []
    wide, small, note = _curves(run, names), _hypers(run, names), _constants(run, names)
    if wide:
        saved.append(folder / "loss.png")
        _figure(run, wide, [], title, "").savefig(saved[-1], dpi=120)
    if small:
        saved.append(folder / "hyperparameters.png")
        _figure(run, [], small, title, note).savefig(saved[-1], dpi=120)
    return saved


def _figure(run: list[Points], wide: list[Draw], small: list[Draw], title: str, note: str) -> Any:
    """Panels one below the other: each of ``wide`` in a row of its own, ``small`` up to three in a row."""
    across = min(3, max(1, len(small)))
    heights = [3.4, *[2.6] * (len(wide) - 1)][: len(wide)] + [2.3] * -(-len(small) // across)
    made = figure(9.5, max(2.0, sum(heights) + 0.5))
    if title:
        heading(made, title)
    if note:
        made.supxlabel("\n".join(textwrap.wrap(note, 130)), fontsize=8, color=PALE, x=0.012, ha="left")
    if not heights:
        return made
    grid = made.add_gridspec(len(heights), 6, height_ratios=heights)
    for row, draw in enumerate(wide):
        draw(plain(made.add_subplot(grid[row, :])))
    for n, draw in enumerate(small):
        at = n % across * (6 // across)
        draw(plain(made.add_subplot(grid[len(wide) + n // across, at : at + 6 // across])))
    end = _end(run)
    for axes in made.axes:
        axes.set_xlim(-0.015 * end, 1.015 * max(end, 1))
    return made


def _curves(run: list[Points], names: Mapping[int, str]) -> list[Draw]:
    return [*_losses(run), *_metrics(run), *_scores(run), *_meta_losses(run, names)]


def _losses(run: list[Points]) -> list[Draw]:
    found = [column for column in run if column.level == 0 and "loss" in column.key]
    acts = [column.steps for column in run if column.level and column.key == "restored"]

    def draw(axes: Any) -> None:
        _task_curves(axes, found)
        for column in found:
            mark_divergence(axes, column)
        if acts:
            steps = np.unique(np.concatenate(acts))
            axes.plot(
                steps,
                np.full(len(steps), 0.02),
                "|",
                color=BAD,
                markersize=7,
                label="put back by a guard",
                transform=axes.get_xaxis_transform(),
            )
        label(axes, "Loss", "loss")
        legend(axes)

    return [draw] if found else []


def _metrics(run: list[Points]) -> list[Draw]:
    own = [column for column in run if column.level == 0 and "loss" not in column.key]
    found = [column for column in own if not column.key.startswith(_CHOOSE)]

    def draw(axes: Any) -> None:
        _task_curves(axes, found)
        label(axes, "Metrics", "")
        legend(axes)

    return [draw] if found else []


def _scores(run: list[Points]) -> list[Draw]:
    """The score by which a run selects its values, with its lowest point marked."""
    found = [column for column in run if column.level == 0 and column.key == f"{_CHOOSE}score"]

    def draw(axes: Any) -> None:
        values = found[0].values
        curve(axes, found[0], "of the current values", _VALID, scale(axes, [values]))
        if np.isfinite(values).any():
            best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
            axes.plot(found[0].steps[best], values[best], "o", color=INK, markersize=5, label="lowest")
        label(axes, "Score on fresh tasks", "score")
        legend(axes)

    return [draw] if found else []


def _task_curves(axes: Any, found: list[Points]) -> None:
    log = scale(axes, [column.values for column in found])
    for n, column in enumerate(sorted(found, key=_rank)):
        curve(axes, column, _words(column.key), _task_colour(column, n), log)


def _meta_losses(run: list[Points], names: Mapping[int, str]) -> list[Draw]:
    found = [column for column in run if column.level and column.key == "meta_loss"]

    def draw(axes: Any) -> None:
        log = scale(axes, [column.values for column in found])
        for column in found:
            curve(axes, column, _named(column.level, names), _level_colour(column.level), log)
        label(axes, "Meta-loss, what each level is scored by", "meta-loss")
        legend(axes)

    return [draw] if found else []


def _hypers(run: list[Points], names: Mapping[int, str]) -> list[Draw]:
    end = _end(run)

    def panel(column: Points) -> Draw:
        def draw(axes: Any) -> None:
            scale(axes, [column.values])
            shown = some(len(column.steps))
            steps, values = [*column.steps[shown], end], [*column.values[shown], column.values[-1]]
            colour = _level_colour(column.level)
            axes.plot(steps, values, color=colour, linewidth=1.5, drawstyle="steps-post")
            label(axes, column.key, _named(column.level, names), colour)
            axes.set_title(f"{column.values[0]:.3g} → {column.values[-1]:.3g}", fontsize=8, color=PALE, loc="right")

        return draw

    return [panel(column) for column in run if _is_hyper(column) and not _constant(column)]


def _constants(run: list[Points], names: Mapping[int, str]) -> str:
    still: dict[int, list[str]] = {}
    for column in run:
        if _is_hyper(column) and _constant(column):
            still.setdefault(column.level, []).append(f"{column.key} {column.values[0]:.4g}")
    told = [f"{_named(level, names)}: {', '.join(values)}" for level, values in still.items()]
    return f"Not moved, {'; '.join(told)}" if told else ""


def _columns(trace: Trace) -> list[Points]:
    return [Points(*name, *trace.series(*name)) for name in [*trace.keys()]]


def _is_hyper(column: Points) -> bool:
    return column.level > 0 and column.key not in FIGURES


def _words(key: str) -> str:
    return "training loss" if key == "loss" else key.replace("_", " ")


def _constant(column: Points) -> bool:
    return bool(np.all(column.values == column.values[0]))


def _named(level: int, names: Mapping[int, str]) -> str:
    return f"level {level} {names[level]}" if level in names else f"level {level}"


def _end(run: list[Points]) -> int:
    return max((int(column.steps[-1]) for column in run), default=0)


def _rank(column: Points) -> int:
    """The place of a column in the order: training, validation, test, anything else."""
    prefixes = ("loss", "valid", "test")
    return next((n for n, prefix in enumerate(prefixes) if column.key.startswith(prefix)), len(prefixes))


def _task_colour(column: Points, n: int) -> str:
    return (_TRAIN, _VALID, _TEST, *_LEVELS)[_rank(column) + (n if _rank(column) == 3 else 0)]


def _level_colour(level: int) -> str:
    return _LEVELS[(level - 1) % len(_LEVELS)]
