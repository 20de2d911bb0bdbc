"""Pictures of comparisons: whole names, and nothing beyond the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recopt.plots.comparison import Curve, plot, plot_series, plots
from recopt.plots.page import spread

BANDS = {"quartile1": np.arange(5) + 1.0, "median": np.arange(5) + 2.0, "quartile3": np.arange(5) + 3.0}
NAMES = (
    "sgd(lr=0.001)/hypergradient(kappa=0.01)/annealing(step=0.2)",
    "sgd(lr=0.001)/hypergradient(kappa=0.01)/annealing(step=0.5)",
    "tuned adam",
)
CURVES = [Curve(name, BANDS, (10.0 * n + 1, 9.0, 40.0), (10.0, np.nan, np.nan)) for n, name in enumerate(NAMES)]


def texts(figure: Any) -> list[Any]:
    figure.canvas.draw()
    found = [*figure.findobj(lambda one: hasattr(one, "get_window_extent") and hasattr(one, "get_text"))]
    return [text for text in found if text.get_visible() and text.get_text().strip() and "$" not in text.get_text()]


@pytest.mark.parametrize("figures", [[plot("quadratic: 100 tasks", 4, "Sum of the losses", CURVES)],
                                     plots(4, "Loss after the last step", CURVES)])  # fmt: skip
def test_names_are_whole_and_nothing_is_beyond_the_edge(figures: list[Any]) -> None:
    for figure in figures:
        for text in texts(figure):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width + 1, text.get_text()
        shown = {text.get_text().replace("\n", "") for text in texts(figure)}
        assert shown.issuperset(NAMES)


def test_names_in_a_series_are_whole() -> None:
    ratios = {name: {"one": (1.0, 0.9, 1.1), "other": (2.0, 1.0, 3.0)} for name in NAMES}
    shown = {text.get_text().replace("\n", "") for text in texts(plot_series(["one", "other"], ratios, "the best"))}
    assert shown.issuperset(NAMES)


def test_an_interval_that_nobody_knows_is_left_out() -> None:
    assert spread((2.0, np.nan, np.nan)) == "2"
    assert "1 to 3" in spread((2.0, 1.0, 3.0))
