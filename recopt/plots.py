"""Pictures of a run: its losses, what its levels were scored by, and how their hyperparameters moved.

Drawn with matplotlib's own objects, without pyplot: no global state, no window, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .thinning import Floats, Ints
from .trace import Points, Trace

FIGURES = frozenset({
    "meta_loss", "update_norm", "signal_norm", "normalized_norm",
    "accepted", "spread", "restored", "frozen", "null_step",
})
"""What a level records besides its hyperparameters; any other key of a level is a hyperparameter."""

# Okabe & Ito (2008): eight colours that people with any kind of colour vision can tell apart.
_TASK, _HELD_OUT, _BAD, _INK = "#0072B2", "#D55E00", "#B00020", "#333333"
_LEVELS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#D55E00", "#0072B2")
_MANY = 3000  # points; longer columns are drawn as the band they fill and its middle
_LOG_FROM = 20.0  # largest over smallest value from which a positive column gets a logarithmic axis

Draw = Callable[[Any], None]


def plot_run(trace: Trace, title: str = "", levels: Mapping[int, str] | None = None) -> Any:
    """One figure of everything: losses, metrics, meta-losses and hyperparameters.

    Args:
        trace: of the run; level 0 has ``loss`` and whatever is measured, ``valid…`` and ``test…`` held out.
        title: above it all, the run's name perhaps.
        levels: a name for each level, shown beside its number.

    Returns:
        A ``matplotlib.figure.Figure`` with an Agg canvas: ``figure.savefig(path)``.
    """
    names = levels or {}
    return _figure([*_losses(trace), *_metrics(trace), *_meta_losses(trace, names)], _hypers(trace, names), title,
                   _constants(trace, names))


def save_plots(trace: Trace, folder: Path, title: str = "", levels: Mapping[int, str] | None = None) -> list[Path]:
    """Write ``loss.png`` and, if there are hyperparameters, ``hyperparameters.png`` into ``folder``.

    Arguments as for :func:`plot_run`. Returns the files written.
    """
    names, saved = levels or {}, []
    wide = [*_losses(trace), *_metrics(trace), *_meta_losses(trace, names)]
    small, note = _hypers(trace, names), _constants(trace, names)
    if wide:
        saved.append(folder / "loss.png")
        _figure(wide, [], title, "").savefig(saved[-1], dpi=120)
    if small:
        saved.append(folder / "hyperparameters.png")
        _figure([], small, title, note).savefig(saved[-1], dpi=120)
    return saved


def _figure(wide: list[Draw], small: list[Draw], title: str, note: str) -> Any:
    """Panels one below the other: each of ``wide`` in a row of its own, ``small`` up to three in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, max(1, len(small)))
    rows = len(wide) + -(-len(small) // across)
    heights = [3.2] * len(wide) + [2.4] * (rows - len(wide))
    figure = Figure(figsize=(9, max(2.0, sum(heights) + 0.6)), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12, color=_INK, x=0.01, ha="left")
    if note:
        figure.supxlabel(note, fontsize=8, color="#666666", x=0.01, ha="left")
    if rows:
        grid = figure.add_gridspec(rows, 6, height_ratios=heights)
        for row, draw in enumerate(wide):
            draw(_plain(figure.add_subplot(grid[row, :])))
        for n, draw in enumerate(small):
            width = 6 // across
            at = n % across * width
            draw(_plain(figure.add_subplot(grid[len(wide) + n // across, at : at + width])))
    return figure


def _plain(axes: Any) -> Any:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK)
    return axes


def _losses(trace: Trace) -> list[Draw]:
    found = [column for column in _columns(trace) if column.level == 0 and _is_loss(column.key)]
    if not found:
        return []

    def draw(axes: Any) -> None:
        log = _scale(axes, [column.values for column in found])
        for n, column in enumerate(found):
            train = column.key == "loss"
            name, colour = ("training loss", _TASK) if train else (_words(column.key), _cycle(n - 1))
            _curve(axes, column, name, colour, log)
            _mark_divergence(axes, column)
        _label(axes, "Loss", "loss", len(found) > 1)

    return [draw]


def _metrics(trace: Trace) -> list[Draw]:
    found = [column for column in _columns(trace) if column.level == 0 and not _is_loss(column.key)]
    if not found:
        return []

    def draw(axes: Any) -> None:
        log = _scale(axes, [column.values for column in found])
        for n, column in enumerate(found):
            _curve(axes, column, _words(column.key), _cycle(n), log)
        _label(axes, "Metrics", "", True)

    return [draw]


def _meta_losses(trace: Trace, names: Mapping[int, str]) -> list[Draw]:
    found = [column for column in _columns(trace) if column.level and column.key == "meta_loss"]
    if not found:
        return []

    def draw(axes: Any) -> None:
        log = _scale(axes, [column.values for column in found])
        for column in found:
            _curve(axes, column, _named(column.level, names), _colour(column.level), log)
        _label(axes, "Meta-loss: what each level is scored by", "meta-loss", True)

    return [draw]


def _hypers(trace: Trace, names: Mapping[int, str]) -> list[Draw]:
    end = max((int(column.steps[-1]) for column in _columns(trace)), default=0)

    def panel(column: Points) -> Draw:
        def draw(axes: Any) -> None:
            _scale(axes, [column.values])
            steps, values = [*column.steps, end], [*column.values, column.values[-1]]
            axes.plot(steps, values, color=_colour(column.level), linewidth=1.4, drawstyle="steps-post")
            _label(axes, f"{column.key}   ({_named(column.level, names)})", "", False)

        return draw

    return [panel(column) for column in _columns(trace) if _is_hyper(column) and not _constant(column)]


def _constants(trace: Trace, names: Mapping[int, str]) -> str:
    still = [column for column in _columns(trace) if _is_hyper(column) and _constant(column)]
    told = [f"{column.key} = {column.values[0]:.4g} ({_named(column.level, names)})" for column in still]
    return f"Not moved: {', '.join(told)}" if told else ""


def _columns(trace: Trace) -> list[Points]:
    return [Points(*name, *trace.series(*name)) for name in [*trace.keys()]]


def _is_hyper(column: Points) -> bool:
    return column.level > 0 and column.key not in FIGURES


def _constant(column: Points) -> bool:
    return bool(np.all(column.values == column.values[0]))


def _curve(axes: Any, column: Points, label: str, colour: str, log: bool) -> None:
    """A column: its points light, and over them a smoothed line (see :func:`smoothed`) if they are many."""
    steps, values = column.steps, column.values
    if len(values) <= 100:
        axes.plot(steps, values, color=colour, linewidth=1.4, marker="o", markersize=2.5, label=label)
        return
    if len(values) > _MANY:
        middle, low, high = _bands(steps, values)
        axes.fill_between(middle, low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(steps, smoothed(values, max(1, len(values) // 100), log), color=colour, linewidth=1.6, label=label)


def smoothed(values: Floats, reach: int, log: bool = False) -> Floats:
    """Centred moving average of ``values`` (n,), over up to ``reach`` on either side; geometric with ``log``.

    What is not finite is left out, and stays a gap itself.
    """
    good = np.isfinite(values) & ((values > 0) if log else True)
    used = np.where(good, np.log(np.where(good, values, 1.0)) if log else values, 0.0)
    sums, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (used, good.astype(float)))
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    mean = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1.0)
    return np.where(good, np.exp(mean) if log else mean, np.nan)


def _bands(steps: Ints, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Middle step, least and greatest finite value of each of at most 800 stretches of a column."""
    cuts = np.linspace(0, len(values), 801).astype(np.int64)[:-1]
    good = np.isfinite(values)
    low = np.minimum.reduceat(np.where(good, values, np.inf), cuts)
    high = np.maximum.reduceat(np.where(good, values, -np.inf), cuts)
    some = low <= high
    return steps[cuts][some].astype(np.float64), low[some], high[some]


def _mark_divergence(axes: Any, column: Points) -> None:
    bad = column.steps[~np.isfinite(column.values)]
    if len(bad):
        axes.axvline(bad[0], color=_BAD, linewidth=1, linestyle="--")
        axes.annotate(f" not finite at {bad[0]:,}", (bad[0], 0.97), xycoords=("data", "axes fraction"), color=_BAD,
                      fontsize=8, va="top")


def _scale(axes: Any, columns: list[Floats]) -> bool:
    """Make the axis logarithmic if all values are positive and far apart; whether it is."""
    values = np.concatenate([column[np.isfinite(column)] for column in columns])
    log = bool(len(values)) and bool(values.min() > 0) and bool(values.max() / values.min() >= _LOG_FROM)
    if log:
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    return log


def _label(axes: Any, title: str, y: str, legend: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.set_xlabel("step", fontsize=8, color=_INK)
    axes.set_ylabel(y, fontsize=8, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if legend:
        axes.legend(fontsize=8, frameon=False)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _is_loss(key: str) -> bool:
    return "loss" in key


def _named(level: int, names: Mapping[int, str]) -> str:
    return f"level {level} {names[level]}" if level in names else f"level {level}"


def _colour(level: int) -> str:
    return _LEVELS[(level - 1) % len(_LEVELS)]


def _cycle(n: int) -> str:
    return (_HELD_OUT, *_LEVELS)[n % 8]
