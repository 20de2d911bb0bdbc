"""``gradient: auto``: the estimator that a level gets, and the reason that is told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from recopt.checking.errors import Notice
from recopt.running.plan import replan

from .. import engines

ES = {"every": 5}


@pytest.mark.parametrize(
    ("stack", "level", "settings", "name", "why"),
    [
        ("adam/sgd", 2, {}, "online", "its window is one step"),
        ("adam/sgd", 2, {"every": 20}, "unroll", "sums of the gradients after each of 20 steps"),
        ("adam/sgd[lr]", 2, {"every": 50, "second_order": True}, "forward", "derivatives by 1 of its numbers go along"),
        ("adam/sgd[*]", 2, {"every": 50, "second_order": True}, "unroll", "second derivatives are asked for"),
        ("adam/sgd", 2, {"every": 10, "second_order": True}, "unroll", "second derivatives are asked for"),
        ("sgd(momentum=0.9)/adam[lr,momentum]", 2, {"every": 50, "second_order": True}, "unroll", "are asked for"),
        ("sgd(momentum=0.9)/adam[lr,momentum]", 2, {"every": 101, "second_order": True}, "forward", "by 2 of its"),
        ("lstm/adam", 2, {}, "unroll", "sums of the gradients after each of 20 steps"),
        ("adam/annealing/sgd", 3, ES, "es", r"no derivative passes through level 2 \(annealing moves adam\)"),
        ("annealing/adam", 2, ES, "es", "no derivative passes through level 1"),
        ("lstm/adam", 2, {"objective": "steps_to: 0.1"}, "pes", "steps_to has no derivative, and windows of one"),
        ("sgd/loss:adam", 2, {}, "unroll", "parameters of a loss act by second derivatives"),
        ("sgd/init:adam", 2, {"episode": 5}, "unroll", "a start acts through all steps"),
        ("sgd/init:adam", 2, {"episode": 50, "proximal": 1.0}, "implicit", "'proximal' makes an episode's end depend"),
        ("adam/annealing", 2, {}, "value", "'annealing' goes by values alone"),
        ("adam/sgd", 1, {}, "direct", "the task has a gradient of its own"),
    ],
)  # fmt: skip
def test_what_the_graph_tells_decides(stack: str, level: int, settings: dict[str, Any], name: str, why: str) -> None:
    if "steps_to" in str(settings):
        settings = {**settings, "episode": 100}
    with pytest.warns(Notice, match=rf"Level {level} \(.*\): gradient is {name}, since .*{why}"):
        made = engines.graph(stack, {level: {"gradient": "auto", **settings}})
    assert made.levels[level - 1].gradient == name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = engines.graph(stack, {level: {"gradient": name, **settings}})
    assert made.levels == given.levels


def test_a_run_says_it_once_and_its_spec_has_what_was_chosen() -> None:
    settings = ["level3.gradient=auto", "level3.every=5"]
    with pytest.warns(Notice) as said:
        made = replan({}, task="quadratic", stack="adam/annealing/sgd", settings=settings)
    assert len([one for one in said if "gradient is es" in str(one.message)]) == 1
    assert made.spec.levels[2].gradient == "es"
