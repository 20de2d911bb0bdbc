"""Stacks of Python objects: the same run, names and refusals wherever they are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError, Strategy, positive
from recopt.running.plan import plan
from recopt.tasks.quadratic import Quadratic


class Signed(Strategy):
    """Steps of fixed length along the sign of the gradient."""

    lr = positive(1e-3)

    def forward(self, point, trials, state, rng):  # type: ignore[no-untyped-def]
        return [-self.lr * g.sign() for g in trials[0].grads], state


STACKS = [
    (["adam(lr=0.01)", "sgd/sgd"], "adam(lr=0.01)/sgd(lr=0.05)[lr]/sgd@sgd3(lr=0.01)[lr]"),
    ([Signed(lr=0.01), "adagrad"], "signed(lr=0.01)/adagrad(lr=1)[lr]"),
    (["adam", Signed()], "adam/signed[lr]"),
    (Signed(), "signed"),
    (["adam", Signed(), "self"], "adam/signed[lr]/self[lr]"),
]


@pytest.mark.parametrize(("stack", "words"), STACKS)
def test_a_run_a_comparison_and_an_optimizer_take_the_same_lists(stack: object, words: str) -> None:
    result = recopt.run("quadratic", stack, steps=3, track=False)  # type: ignore[arg-type]
    assert result.stack == words
    optimizer = recopt.Optimizer([nn.Parameter(torch.ones(3))], stack)  # type: ignore[arg-type]
    assert optimizer.hyperparameters().keys() == result.hyperparameters.keys()
    found = recopt.compare("quadratic", [stack], baselines=[], seeds=2, steps=3, track=False)  # type: ignore[list-item]
    assert found.entries[0].competitor.graph.describe() == words


def test_the_hyperparameters_of_both_read_back_as_they_were_declared() -> None:
    result = recopt.run("quadratic", "adam/annealing", steps=1, track=False)
    assert result.hyperparameters["adam.beta1"] == 0.9 and result.hyperparameters["adam.eps"] == 1e-8


def test_a_strategy_is_repeated_up_to_a_depth_with_values_of_its_own() -> None:
    result = recopt.run("quadratic", Signed(lr=0.02), depth=2, steps=30, track=False)
    assert result.hyperparameters.keys() == {"signed.lr", "signed2.lr"}
    assert result.hyperparameters["signed2.lr"] == 0.02 != result.hyperparameters["signed.lr"]


def test_a_depth_repeats_no_strategy_above_one_that_closes_the_loop() -> None:
    with pytest.raises(RecoptError, match="'self' closes a stack, and a depth repeats its last strategy"):
        recopt.run("quadratic", "adam/sgd/self", depth=4, track=False)
    with pytest.raises(RecoptError, match="'self' closes a stack"):
        recopt.Optimizer([nn.Parameter(torch.ones(2))], "adam/sgd/self", depth=4)


def test_settings_are_for_levels_and_for_strategies_that_are_given_by_name() -> None:
    settings = ["level2.every=5", "adagrad.lr=0.3", "level1.guard=false"]
    found = plan("quadratic", [Signed(), "adagrad"], settings=settings)
    assert found.graph.levels[1].every == 5 and not found.graph.levels[0].guard
    assert found.spec.strategies["adagrad"].settings["lr"] == 0.3
    words = plan("quadratic", "adam/adagrad", settings=["level2.every=5", "adagrad.lr=0.3"])
    assert found.graph.levels[1].model_dump(exclude={"moves"}) == words.graph.levels[1].model_dump(exclude={"moves"})


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("signed.lr=1", r"'signed.lr' is of a strategy that was given as an object: make it so, as Signed\(lr=…\)"),
        ("task.dim=5", "'task.dim' has no place beside a list of strategies: write it into the task"),
        ("level3.every=5", "There is no level3"),
        ("level2.evry=5", "Did you mean 'every'"),
        ("adam.lr=5", "adam"),
    ],
)
def test_settings_of_what_is_an_object_and_of_nothing_are_refused(setting: str, told: str) -> None:
    with pytest.raises(RecoptError, match=told):
        recopt.run("quadratic", [Signed(), "adagrad"], settings=[setting], track=False)


@pytest.mark.parametrize("stack", ["adam", ["adam", "adagrad"]])
def test_settings_of_a_task_that_is_an_object_are_refused(stack: Any) -> None:
    with pytest.raises(RecoptError, match=r"'task.dim' is of a task .* an object: make it so, as Quadratic\(dim=…\)"):
        recopt.run(Quadratic(), stack, settings=["task.dim=3"], track=False)


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(RecoptError, match="The stack is empty"):
        recopt.run("quadratic", [])


def test_a_depth_repeats_no_strategies_side_by_side_that_would_move_the_same() -> None:
    for stack in ("adam+sgd", "adam/sgd+adagrad"):
        with pytest.raises(RecoptError, match="each would move the same numbers: write what is to stand above, as in"):
            plan("quadratic", stack, depth=4)
    assert len(plan("quadratic", "adam/sgd[lr]+sgd@b[beta1]").graph.levels) == 3


def test_what_python_prints_of_them_is_a_few_lines_of_text() -> None:
    found = recopt.compare("quadratic", [Signed(), "adam"], baselines=[], seeds=2, steps=3, track=False)
    assert "<" not in repr(found) and len(repr(found).splitlines()) == 3
    graph = recopt.Graph([recopt.Level(moves="task", by="a")], {"a": Signed()})
    assert repr(graph) == "recopt.Graph a\nlevel 1: a moves task"
