"""Hessian-vector products in the budget: as many as are taken, of each task, whichever estimator takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recopt.engine import checkpoint

from .. import differences
from ..differences import EXACT, Settings, Weighted
from ..engines import Recorder, Regression, engine

WINDOWS = 3
CASES: dict[str, tuple[str, Settings, int, int, int]] = {
    # stack, settings, tasks, steps of a window, products of a window and task
    "an unroll": ("rule/rule", {2: {"every": 5, **EXACT}}, 1, 5, 4),  # the first gradient is at a point without a past
    "in segments": ("rule/rule", {2: {"every": 6, "segments": 3, **EXACT}}, 1, 6, 5),
    "tasks side by side": ("rule/rule", {2: {"every": 5, **EXACT}}, 3, 5, 4),
    "groups": ("rule@a[2.*]+rule@a[0.*]/rule", {3: {"every": 4, **EXACT}}, 1, 4, 3),
    "part of the model": ("rule[2.*]/rule", {2: {"every": 4, **EXACT}}, 1, 4, 3),
    "a start": ("rule/init:rule", {2: {"episode": 5}}, 2, 5, 5),
    "a start, first order": ("rule/init:rule", {2: {"episode": 5, "second_order": False}}, 2, 5, 0),
    "a start, Reptile": ("rule/init:rule", {2: {"episode": 5, "gradient": "reptile"}}, 2, 5, 0),
    "second derivatives dropped": ("rule/rule", {2: {"every": 5, "gradient": "unroll"}}, 1, 5, 0),
    "tangents": ("rule/rule[lr,beta]", {2: {"every": 4, "gradient": "forward"}}, 1, 4, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_product_for_each_gradient_that_is_gone_through(name: str) -> None:
    stack, settings, tasks, every, each = CASES[name]
    made = differences.engine(stack, settings, tasks)
    made.run(WINDOWS * every + 1)
    spent = made.budget.levels
    first = 2 if each == 8 else 0  # of the first evaluation there is nothing to score, and tangents go through it
    assert spent[-1].products == tasks * (WINDOWS * each + first)
    assert sum(row.products for row in spent[:-1]) == 0
    assert made.budget.total.evaluations == made.budget.total.gradient + spent[-1].products


def test_a_loss_is_charged_for_the_training_gradient_alone() -> None:
    made = differences.engine("rule/loss:rule", {2: {"every": 1}}, task=Weighted)
    made.run(6)
    # Beside it each step takes two evaluations more, held out and at the new values.
    assert (made.budget.levels[1].products, made.budget.total.gradient) == (5, 6 + 5 + 5)


@pytest.mark.parametrize("tasks", [1, 2])
def test_implicit_is_charged_for_what_it_takes(tasks: int) -> None:
    told = {2: {"every": 4, "gradient": "implicit", "iterations": 3, "tolerance": 0.0}}
    made = differences.engine("rule/loss:rule", told, tasks, task=Weighted)
    made.sink = sink = Recorder()
    with pytest.warns(match="gradient=implicit"):
        made.run(4 * WINDOWS + 1)
    # Beside the iterations, the mixed product, and one along the gradient that tells how far from rest this is.
    iterations = sink.series(2, "products")
    assert made.budget.levels[1].products == tasks * (sum(iterations) + 2 * WINDOWS)
    assert len(iterations) == WINDOWS and max(iterations) == 3


def test_what_a_trial_takes_is_charged_to_the_level_that_tries() -> None:
    made = engine(Regression(), "sgd/adam/annealing", {2: {"every": 3, **EXACT}, 3: {"every": 2}})
    made.run(20)
    assert made.budget.levels[2].products > 0
    assert made.budget.levels[2].products % (3 - 1) == 0


def test_a_resumed_run_has_the_same_account(tmp_path: Path) -> None:
    def run() -> Any:
        return engine(Regression(), "sgd/adam[lr]", {2: {"every": 7, "gradient": "forward"}}, sink=Recorder())

    whole, part, again = run(), run(), run()
    whole.run(40)
    part.run(17)
    checkpoint.save(part, tmp_path / "here")
    checkpoint.load(again, tmp_path / "here")
    again.run(40)
    assert again.budget.total.products == whole.budget.total.products == 40
