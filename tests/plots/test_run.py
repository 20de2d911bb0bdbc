"""Pictures: what they show, in which form, and that they touch no global state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recopt.plots.run import plot_run, save_plots
from recopt.plots.style import smoothed
from recopt.tracking.trace import Trace


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


def test_a_run_is_drawn_with_its_losses_metrics_meta_losses_and_hyperparameters() -> None:
    figure = plot_run(run(), "digits adam/sgd", {1: "adam", 2: "sgd"})
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Metrics", "Meta-loss, what each level is scored by", "lr", "beta1"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "", "meta-loss", "level 1 adam", "level 1 adam"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "log", "log", "linear"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["training loss", "valid loss"]
    assert figure.axes[3].get_title(loc="right") == "0.001 → 0.0985"
    assert all(axes.get_xlabel() == "step" for axes in figure.axes)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert figure.get_supxlabel() == "Not moved, level 1 adam: eps 1e-08"
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


def test_pictures_are_written_beside_each_other(tmp_path: Path) -> None:
    assert save_plots(run(), tmp_path) == [tmp_path / "loss.png", tmp_path / "hyperparameters.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    only = Trace()
    only.add(0, 0, {"loss": 1.0})
    (tmp_path / "only").mkdir()
    assert save_plots(only, tmp_path / "only") == [tmp_path / "only" / "loss.png"]


def test_what_the_guards_did_is_marked_under_the_loss() -> None:
    trace = run()
    trace.add(1, 120, {"restored": 1.0})
    trace.add(2, 250, {"restored": 1.0})
    axes = plot_run(trace).axes[0]
    marks = next(line for line in axes.lines if line.get_label() == "put back by a guard")
    assert marks.get_xdata().tolist() == [120, 250]


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
import recopt.plots.run
from recopt.tracking.trace import Trace
assert "matplotlib" not in sys.modules
trace = Trace()
trace.add(0, 0, {"loss": 1.0})
recopt.plots.run.plot_run(trace)
assert "matplotlib.figure" in sys.modules
assert not {"matplotlib.pyplot", "mlflow", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
