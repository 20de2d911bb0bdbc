"""Pictures: what they show, in which form, and that they touch no global state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recopt.diagnosis.view import LevelView
from recopt.plots.panels import RunPanels, plot_run
from recopt.plots.style import _tick, draw_lines, figure, smoothed
from recopt.tracking.trace import Points, Trace


def run(steps: int = 300, diverges_at: int | None = None) -> Trace:
    trace, draw = Trace(), np.random.default_rng(0)
    for step in range(steps):
        loss = float(np.exp(-6 * step / steps + 0.2 * draw.standard_normal()))
        trace.add(0, step, {"loss": loss if diverges_at is None or step < diverges_at else float("inf")})
        if step % 50 == 0:
            trace.add(0, step, {"valid_loss": 1.1 * loss, "valid_accuracy": 0.5})
        trace.add(1, step, {"update_norm": 1.0, "signal_norm": 2.0})
        trace.add(1, step, {"lr": 1e-3 * 10 ** (2 * step / steps), "beta1": 0.9 + 0.05 * step / steps, "eps": 1e-8})
        if step % 10 == 0:
            trace.add(2, step, {"meta_loss": loss, "accepted": 1.0})
    return trace


STARTS = {"lr": 1e-3, "beta1": 0.9, "eps": 1e-8}
ENDS = {"lr": 0.1, "beta1": 0.95, "eps": 1e-8}
LEVELS = (LevelView(1, "adam", "task", start=STARTS, end=ENDS), LevelView(2, "sgd", "adam", end={"lr": 0.01}))


def test_a_run_is_drawn_with_its_losses_metrics_meta_losses_and_hyperparameters() -> None:
    figure = plot_run(run(), "digits adam/sgd", LEVELS)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Metrics", "Meta-loss", "lr", "beta1"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "", "meta-loss", "level 1 adam", "level 1 adam"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "log", "log", "linear"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["training loss", "valid loss"]
    assert figure.axes[3].get_title(loc="right") == "0.001 → 0.1"
    assert all(axes.get_xlabel() == "step" for axes in figure.axes)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert figure.get_supxlabel() == "Not moved, level 1 adam: eps 1e-08; level 2 sgd: lr 0.01"
    assert figure.get_suptitle() == "digits adam/sgd"


@pytest.mark.parametrize("steps", [300, 8000])
def test_divergence_is_marked_and_the_rest_still_drawn(steps: int) -> None:
    axes = plot_run(run(steps, diverges_at=steps // 2)).axes[0]
    assert any(f"not finite at {steps // 2:,}" in text.get_text() for text in axes.texts)
    low, high = axes.get_ylim()
    assert 0 < low < high < 100


@pytest.mark.parametrize("value", [float("nan"), 0.0, -3.0, 1e30])
@pytest.mark.parametrize("steps", [0, 1, 2, 150, 4000])
def test_any_column_can_be_drawn(tmp_path: Path, value: float, steps: int) -> None:
    trace = Trace()
    for step in range(steps):
        trace.add(0, step, {"loss": value, "accuracy": value * step})
        trace.add(3, step, {"lr": value * step, "meta_loss": value})
    plot_run(trace).savefig(tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 1000


def test_a_hyperparameter_that_moved_before_its_level_stepped_is_not_called_unmoved() -> None:
    trace = run()
    trace.add(2, 0, {"lr": 0.2191})
    levels = (LEVELS[0], LevelView(2, "sgd", "adam", start={"lr": 0.1}, end={"lr": 0.2191}))
    shown = RunPanels(trace, levels)
    assert "0.2191" not in shown.constants()
    figure = plot_run(trace, "", levels)
    assert [a.get_title(loc="right") for a in figure.axes][-1] == "0.1 → 0.219"


def test_a_rounding_is_no_move() -> None:
    trace, levels = Trace(), (LevelView(1, "adam", "task", start={"beta1": 0.9}, end={"beta1": 0.8999999761581421}),)
    trace.add(1, 5, {"beta1": 0.8999999761581421})
    shown = RunPanels(trace, levels)
    assert shown.constants() == "Not moved, level 1 adam: beta1 0.9"
    assert not shown.panels()


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_a_legend_hides_neither_the_title_nor_itself(count: int) -> None:
    made = figure(4.2, 2.2)
    made.set_layout_engine("none")
    axes = made.add_axes((0.15, 0.18, 0.83, 0.65))
    lines = [
        (Points(n, "meta_loss", np.arange(9), np.arange(9) / 9 + 1), f"level {n} hypergradient", "k")
        for n in range(count)
    ]
    draw_lines(axes, lines, "Meta-loss", "meta-loss")
    made.canvas.draw()
    title, words = (text.get_window_extent() for text in (axes._left_title, axes.get_legend()))
    assert not title.overlaps(words)
    assert all(box.x0 >= 0 and box.x1 <= made.bbox.width and box.y1 <= made.bbox.height for box in (title, words))


@pytest.mark.parametrize(
    ("value", "text"), [(0.97752, "0.97752"), (1e-6, "1e-6"), (1e6, "1e6"), (50000, "50000"), (-2e5, "-2e5"), (0, "0")]
)
def test_a_number_at_an_axis_is_short(value: float, text: str) -> None:
    assert _tick(value, 0) == text


def test_trials_are_marked_under_what_they_move() -> None:
    trace = run()
    trace.add(3, 100, {"accepted": 1.0})
    trace.add(3, 200, {"accepted": 0.0})
    levels = (*LEVELS, LevelView(3, "annealing", "adam"))
    lines = {line.get_label(): line for line in plot_run(trace, "", levels).axes[3].lines}
    assert lines["accepted"].get_xdata().tolist() == [100] and lines["rejected"].get_xdata().tolist() == [200]


def test_signals_are_drawn_before_and_after_normalizing() -> None:
    trace = run()
    trace.add(2, 10, {"signal_norm": 3.0, "normalized_norm": 1.0})
    sections = [panel.section for panel in RunPanels(trace, LEVELS).panels()]
    assert sections.count("signals") == 2


def test_what_the_guards_did_is_marked_under_the_loss() -> None:
    trace = run()
    trace.add(1, 120, {"restored": 1.0})
    trace.add(2, 250, {"restored": 1.0})
    axes = plot_run(trace).axes[0]
    marks = next(line for line in axes.lines if line.get_label() == "taken back by the guard")
    assert marks.get_xdata().tolist() == [120, 250]


def test_what_a_rule_tells_of_its_state_has_a_panel() -> None:
    trace = run()
    for step in range(0, 300, 10):
        trace.add(1, step, {"paced.rate": 0.01 / (step + 1)})
    axes = plot_run(trace, levels=[LevelView(1, "paced", end={"eps": 1e-8})]).axes
    assert [one.get_title("left") for one in axes][-1] == "paced.rate"


def test_two_points_are_not_joined_by_a_line() -> None:
    trace = run()
    for step in (0, 299):
        trace.add(0, step, {"test_loss": 1.0})
    lines = {line.get_label(): line for line in plot_run(trace).axes[0].lines}
    assert lines["test loss"].get_linestyle() == "None"
    assert lines["valid loss"].get_linestyle() == "-"


def test_smoothing_is_the_mean_of_what_is_within_reach() -> None:
    values = np.array([1.0, 2.0, 6.0, np.nan, 5.0])
    np.testing.assert_allclose(smoothed(values, 1), [1.5, 3.0, 4.0, np.nan, 5.0])
    np.testing.assert_allclose(smoothed(np.array([1.0, 100.0]), 1, log=True), [10.0, 10.0])
    np.testing.assert_allclose(smoothed(values, 0), values)


def test_drawing_leaves_pyplot_alone_and_imports_matplotlib_only_when_used() -> None:
    code = """
import sys
import recopt.plots.panels
from recopt.tracking.trace import Trace
assert "matplotlib" not in sys.modules
trace = Trace()
trace.add(0, 0, {"loss": 1.0})
recopt.plots.panels.plot_run(trace)
assert "matplotlib.figure" in sys.modules
assert not {"matplotlib.pyplot", "mlflow", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
