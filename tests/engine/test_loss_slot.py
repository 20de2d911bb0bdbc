"""Levels that move the parameters of a task's loss: hypergradients, values, time, and what is refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.checking.errors import Notice, RecoptError
from recopt.contracts.task import Batch, Split, Task
from recopt.engine.carry import carry
from recopt.engine.engine import Engine
from recopt.levels.level import LOSS
from recopt.levels.notation import notation, parse
from recopt.stacks.build import make_strategies, stack_levels
from recopt.stacks.named import strategies_of, written

from ..differences import EXACT, Scored, Settings, Weighted, worst
from ..engines import engine as made_engine
from ..engines import goes_on_bit_for_bit, params

CASES: dict[str, tuple[str, Settings, int, type[Task], int, int]] = {
    "one step": ("rule/loss:rule", {}, 2, Weighted, 2, 1),
    "tasks side by side": ("rule/loss:rule", {2: {"every": 2}}, 2, Scored, 2, 2),
    "training loss": ("rule/loss:rule", {2: {"every": 2, "on": "train", "objective": "last"}}, 2, Weighted, 1, 1),
    "improvement": ("rule/loss:rule", {2: {"every": 2, "objective": "improvement"}}, 2, Scored, 2, 1),
    "held-out loss that reads them": ("rule/loss:rule", {2: {"every": 2}}, 2, Scored, 1, 1),
    "groups of the model": ("rule@a[0.*]+net@b[2.*]/loss:rule", {3: {"every": 2}}, 3, Weighted, 1, 1),
    "groups": ("rule/loss:rule[weights]+loss:rule[penalty]", {2: {"every": 2}, 3: {"every": 2}}, 3, Weighted, 1, 1),
    "beside the rule": ("rule/loss:rule+rule", {2: {"every": 2}, 3: {**EXACT, "every": 2}}, 2, Weighted, 2, 1),
    "the rule beside it": ("rule/loss:rule+rule", {2: {"every": 2}, 3: {**EXACT, "every": 2}}, 3, Weighted, 2, 1),
    "a level above": ("rule/loss:rule/rule", {2: {"every": 2}, 3: {**EXACT, "every": 2}}, 3, Scored, 1, 1),
    "under a level above": ("rule/loss:rule/rule", {3: {**EXACT, "every": 3}}, 2, Weighted, 2, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_hypergradients_of_a_loss_are_those_of_differences(name: str) -> None:
    stack, settings, number, task, windows, tasks = CASES[name]
    assert worst(stack, settings, number, windows, tasks, task) < 1e-8


class Ridge(Task):
    """Linear regression on fixed examples, with a penalty for each feature."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        dice = torch.Generator().manual_seed(0)
        self.sets = [torch.randn(n, 6, generator=dice, dtype=torch.float64) for n in (30, 20)]

    def model(self) -> nn.Module:
        made = nn.Linear(5, 1, bias=False)
        nn.init.zeros_(made.weight)
        return made

    def batch(self, index: int, split: Split = "train") -> Batch:
        return self.sets[split != "train"]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch[:, :5])[:, 0] - batch[:, 5]) ** 2).mean()

    def loss_parameters(self) -> nn.Module | None:
        return nn.ParameterDict({"log_penalty": torch.full((5,), -1.0)})

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        given = dict(parameters.named_parameters())["log_penalty"]
        return self.loss(model, batch) + (given.exp() * next(model.parameters())[0] ** 2).sum()


def by_hand(task: Ridge, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """The held-out loss of the solution, and its derivative by the logarithms of the penalties."""
    (x, y), (other, wanted) = ((rows[:, :5], rows[:, 5]) for rows in task.sets)
    leaf = penalty.detach().clone().requires_grad_()
    solution = torch.linalg.solve(x.T @ x / len(x) + torch.diag(leaf.exp()), x.T @ y / len(x))
    loss = ((other @ solution - wanted) ** 2).mean()
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def test_penalties_of_ridge_regression_move_by_the_closed_form() -> None:
    task, settings = Ridge(), {2: {"every": 150, "objective": "last", "normalize": "none"}}
    made = made_engine(task, "sgd(lr=0.3)/loss:sgd(lr=0.5)", settings)
    penalty = torch.full((5,), -1.0, dtype=torch.float64)
    for _ in range(2):
        made.run(made.state.step + 150 + (made.state.step == 0))
        penalty = penalty - 0.5 * by_hand(task, penalty)[1]
        assert torch.allclose(params(made, LOSS)[0], penalty, rtol=0, atol=1e-8)


def test_the_slot_is_one_for_all_tasks_and_moves_by_their_mean() -> None:
    one, three = (
        made_engine(Ridge(), "sgd(lr=0.1)/loss:sgd", {2: {"every": 2}}, tasks=tasks, seed=0) for tasks in (1, 3)
    )
    for made in (one, three):
        made.run(7)
    assert torch.allclose(params(one, LOSS)[0], params(three, LOSS)[0], rtol=1e-12)
    assert not torch.allclose(params(one, LOSS)[0], torch.full((5,), -1.0, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["annealing", "cmaes"])
def test_a_zero_order_strategy_lowers_the_held_out_loss_by_the_values_that_it_tries(rule: str) -> None:
    task = Ridge()
    made = made_engine(task, f"sgd(lr=0.3)/loss:{rule}", {2: {"every": 10, "objective": "last"}})
    before = by_hand(task, params(made, LOSS)[0])[0]
    made.run(150)
    assert by_hand(task, params(made, LOSS)[0])[0] < before


def test_the_first_step_of_a_trial_is_made_with_the_value_that_is_tried() -> None:
    task = Ridge()
    made = made_engine(task, "sgd(lr=0.3)/loss:annealing", {2: {"every": 1}})
    made.run(1)
    tried = params(made, LOSS)[0]
    x, y = task.sets[0][:, :5], task.sets[0][:, 5]
    first = 0.6 * x.T @ y / len(x)  # from zero, where no penalty counts
    made.run(2)
    gradient = 2 * x.T @ (x @ first - y) / len(x) + 2 * params(made, LOSS)[0].exp() * first
    assert not torch.equal(tried, params(made, LOSS)[0])
    assert torch.allclose(params(made)[0][0], first - 0.3 * gradient, rtol=1e-10)


@pytest.mark.parametrize("stack", ["adam/loss:adam/sgd", "adam/loss:cmaes"])
@pytest.mark.parametrize("at", [7, 12])
def test_a_run_goes_on_bit_for_bit_from_a_checkpoint(stack: str, at: int, tmp_path: Path) -> None:
    def fresh() -> Engine:
        return made_engine(Weighted(), stack, {2: {"every": 3}}, seed=1)

    goes_on_bit_for_bit(fresh, at, 25, tmp_path / "state")


def test_a_run_that_goes_on_with_another_rate_keeps_what_was_learned_of_the_loss() -> None:
    old, new = (made_engine(Weighted(), f"sgd/loss:adam(lr={lr})", {2: {"every": 2}}) for lr in (0.1, 0.2))
    old.run(7)
    carry(old, new, lambda slot, name: slot == LOSS)
    assert all(torch.equal(a, b) for a, b in zip(params(new, LOSS), params(old, LOSS), strict=True))
    new.run(11)
    assert not torch.equal(params(new, LOSS)[0], params(old, LOSS)[0])


def test_an_episode_of_a_level_above_starts_loss_and_model_afresh() -> None:
    made = made_engine(Weighted(), "sgd/loss:adam/sgd", {2: {"every": 2}, 3: {"every": 2, "episode": 4}})
    start = params(made, LOSS)
    made.run(11)
    assert made.state.slots[LOSS].draw == made.state.task.draw == 1
    assert all(torch.equal(a, b) for a, b in zip(params(made, LOSS), start, strict=True))


def test_a_run_records_few_numbers_by_name_and_many_by_their_statistics() -> None:
    found = recopt.run("noisy-labels(of=digits, clean=100, weights=examples)", "adam/loss:adam", steps=3, track=False)
    (weights,) = found.loss_parameters().values()
    assert found.history("loss.weights.mean", 2)[1][-1] == pytest.approx(float(weights.mean()), rel=1e-5)
    found = recopt.run(Weighted(), "adam/loss:adam", steps=3, track=False)
    assert found.history("loss.penalty", 2)[1][-1] == pytest.approx(float(found.loss_parameters()["penalty"]))
    assert found.history("loss.weights.4", 2)[1][-1] == pytest.approx(float(found.loss_parameters()["weights"][4]))


class Deaf(Ridge):
    """A training loss that reads none of its parameters."""

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.loss(model, batch)


class HalfDeaf(Ridge):
    """A training loss that reads one of two."""

    def loss_parameters(self) -> nn.Module | None:
        return nn.ParameterDict({"log_penalty": torch.zeros(5), "other": torch.zeros(3)})


class Bare(Ridge):
    """No parameters."""

    def loss_parameters(self) -> nn.Module | None:
        return None


@pytest.mark.parametrize("rule", ["adam", "annealing"])
@pytest.mark.parametrize(("task", "why"), [(Bare, "has no parameters"), (Deaf, r"reads nothing .*'log_penalty'")])
def test_a_loss_without_parameters_or_that_reads_none_is_refused(task: type[Task], why: str, rule: str) -> None:
    with pytest.raises(RecoptError, match=why):
        recopt.run(task(), f"sgd/loss:{rule}", steps=2, track=False)


def test_a_parameter_that_the_training_loss_does_not_read_is_told_of() -> None:
    with pytest.warns(Notice, match="does not read 'other'"):
        made = made_engine(HalfDeaf(), "sgd/loss:sgd")
    made.run(3)
    assert not params(made, LOSS)[1].any()


class Steered(Ridge):
    """A training loss that reads two parameters, by an expression of ``loss``, ``strength`` and ``other``."""

    form = ""

    def loss_parameters(self) -> nn.Module | None:
        return nn.ParameterDict({"strength": torch.tensor(0.5), "other": torch.tensor(0.0)})

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        given = dict(parameters.named_parameters())
        found: Tensor = eval(self.form, {"loss": self.loss(model, batch), **given})
        return found


ALL = {"strength", "other"}
FORMS: dict[str, tuple[str, set[str], set[str]]] = {
    "it weighs": ("loss * strength + loss**2 * other", set(), set()),
    "it counts where another is not 0": ("loss + loss**2 * strength * other", set(), set()),
    "it adds": ("loss + strength**2 + other", ALL, ALL),
    "one adds": ("loss * other + strength", {"strength"}, {"strength"}),
    "it is multiplied by 0": ("loss * (1 + 0 * strength) + 0 * loss**2 * other", ALL, ALL),
    "it is detached where it weighs": ("loss * strength.detach() + strength + other * loss", {"strength"}, set()),
    "it is given as a number": ("loss * strength.item() + loss**2 * other", {"strength"}, set()),
    "it is rounded where it weighs": ("loss * (100 * strength).round() + loss**2 * other", {"strength"}, set()),
}
"""By name, a training loss, and the parameters that a gradient, or a strategy that tries values, moves for nothing."""


@pytest.mark.parametrize("stack", ["sgd(lr=0.01)/loss:adam", "sgd(lr=0.01)/loss:annealing"])
@pytest.mark.parametrize("name", FORMS)
def test_parameters_that_the_training_gradient_does_not_depend_on_are_told_of(name: str, stack: str) -> None:
    task = Steered()
    task.form, *idle = FORMS[name]
    exact = stack.endswith("adam")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made_engine(task, stack)
    words = "has no derivative by|does not read" if exact else "does not depend on"
    found = {n for n in ALL for w in said if re.search(f"({words}) [^:]*'{n}'", str(w.message))}
    assert found == idle[not exact]
    assert all(w.category is Notice for w in said)


def test_levels_of_two_kinds_are_told_of_what_each_of_them_can_move() -> None:
    task = Steered()
    task.form = "loss * (100 * strength).round() + loss * (100 * other).round()"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made_engine(task, "sgd(lr=0.01)/loss:adam[strength]+loss:annealing[other]")
    assert [re.findall("'(.*?)'|level (.)", str(w.message)) for w in said] == [[("strength", ""), ("", "2")]]


def test_a_task_whose_parameters_steer_it_starts_where_it_did_before_it_was_asked() -> None:
    one, other = made_engine(Ridge(), "sgd/loss:adam"), made_engine(Ridge(), "sgd")
    assert all(torch.equal(a, b) for a, b in zip(params(one), params(other), strict=True))


REFUSED: dict[str, tuple[str, Settings]] = {
    "second derivatives alone": ("sgd/loss:adam", {2: {"second_order": False}}),
    "gradient=unroll": ("sgd/loss:adam", {2: {"gradient": "online"}}),
    "normalize=rms": ("sgd/loss:adam", {2: {"normalize": "cosine"}}),
    "set level3.second_order=true[.]": ("sgd/loss:adam + adam", {}),
    "move it by a zero-order strategy": ("annealing/loss:adam", {}),
    "let it stand right over them": ("sgd/adam/loss:adam", {}),
    "as in sgd/loss:adam": ("loss:adam", {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_graphs_that_cannot_move_a_loss_are_refused(why: str) -> None:
    with pytest.raises(RecoptError, match=why):
        made_engine(Weighted(), *REFUSED[why])


def test_the_drop_in_says_where_a_loss_with_parameters_goes() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(RecoptError, match="give it to recopt.run"):
        recopt.Optimizer(model.parameters(), "sgd/loss:adam")


@pytest.mark.parametrize("stack", [
    "sgd(lr=0.1)/loss:adam(lr=0.05)[log_*]", "sgd/loss:adam + annealing", "sgd/annealing + loss:adam",
    "sgd@a[weight] + adam[bias]/loss:cmaes", "sgd/loss:adam/sgd@top[lr]",
])  # fmt: skip
def test_a_stack_is_shown_as_it_was_written(stack: str) -> None:
    layers = parse(stack)
    named = strategies_of(layers)
    slots = make_strategies(named, 0)
    labels = {slot: written(slot, one) for slot, one in named.items()}
    levels = stack_levels(layers, slots)
    assert notation(levels, labels, {slot: [n for n, _ in s.named_parameters()] for slot, s in slots.items()}) == stack
    assert LOSS in [level.moves for level in levels]
