"""Stacks of Python objects: the same run, names and refusals wherever they are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError, Strategy, positive


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


def test_settings_in_words_are_refused_beside_objects() -> None:
    with pytest.raises(RecoptError, match="'settings' are for a stack in words"):
        recopt.run("quadratic", Signed(), settings=["level1.guard=false"])
    with pytest.raises(RecoptError, match="The stack is empty"):
        recopt.run("quadratic", [])


def test_what_python_prints_of_them_is_a_few_lines_of_text() -> None:
    found = recopt.compare("quadratic", [Signed(), "adam"], baselines=[], seeds=2, steps=3, track=False)
    assert "<" not in repr(found) and len(repr(found).splitlines()) == 3
    graph = recopt.Graph([recopt.Level(moves="task", by="a")], {"a": Signed()})
    assert repr(graph) == "recopt.Graph a\nlevel 1: a moves task"
