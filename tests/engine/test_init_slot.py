"""Levels that move the point that episodes start from: hypergradients, Reptile, values, time, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import recopt
from recopt.checking.errors import RecoptError
from recopt.contracts.task import Task
from recopt.engine.carry import carry
from recopt.engine.engine import Engine
from recopt.levels.level import INIT
from recopt.levels.notation import notation, parse
from recopt.running.export import write_export
from recopt.stacks.build import make_strategies, stack_levels
from recopt.stacks.named import strategies_of, written

from ..differences import EXACT, Settings, Wave, Weighted, worst
from ..engines import Noisy, Regression, goes_on_bit_for_bit, params
from ..engines import engine as made_engine

CASES: dict[str, tuple[str, Settings, int, type[Task], int]] = {
    "one task": ("rule/init:rule", {2: {"episode": 3}}, 2, Wave, 1),
    "mean of the losses": ("rule/init:rule", {2: {"episode": 3, "objective": "mean"}}, 2, Wave, 1),
    "tasks side by side": ("rule/init:rule", {2: {"episode": 2}}, 2, Wave, 2),
    "training loss": ("rule/init:rule", {2: {"episode": 2, "on": "train"}}, 2, Wave, 2),
    "part of the model": ("rule/init:rule[0.*]", {2: {"episode": 2}}, 2, Wave, 2),
    "learned rule": ("net/init:rule", {2: {"episode": 2}}, 2, Wave, 1),
    "groups": ("rule@a[0.*]+net@b[2.*]/init:rule", {3: {"episode": 2}}, 3, Wave, 1),
    "beside the rate": (
        "rule/init:rule+rule", {2: {"episode": 2}, 3: {**EXACT, "every": 2, "on": "valid"}}, 2, Wave, 1),
    "the rate beside it": (
        "rule/init:rule+rule", {2: {"episode": 2}, 3: {**EXACT, "every": 2, "on": "valid"}}, 3, Wave, 1),
    "a level above": ("rule/init:rule/rule", {2: {"episode": 2}, 3: {**EXACT, "every": 2}}, 3, Wave, 1),
    "beside the loss": ("rule/loss:rule+init:rule", {2: {"every": 2}, 3: {"episode": 2}}, 3, Weighted, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hypergradients_of_a_start_are_those_of_differences(name: str) -> None:
    stack, settings, number, task, tasks = CASES[name]
    assert worst(stack, settings, number, 2, tasks, task) < 1e-8


class Fixed(Regression):
    """One training batch and one held-out batch for each task, as in a few-shot episode."""

    def batch(self, index: int, split: Any = "train") -> Any:
        return super().batch(0, split)


def by_hand(rate: float, steps: int, tasks: list[Fixed], start: list[torch.Tensor], how: str) -> list[torch.Tensor]:
    """The mean over tasks of the gradient of an adapted model's held-out loss, or of the way back, in plain torch."""
    total = [torch.zeros_like(p) for p in start]
    for task in tasks:
        model = task.model().double()
        names = [name for name, _ in model.named_parameters()]
        first = [p.detach().clone().requires_grad_() for p in start]
        values, call = first, lambda v, b, m=model, n=names, t=task: t.loss(
            lambda x: torch.func.functional_call(m, dict(zip(n, v, strict=True)), (x,)), b)  # fmt: skip
        for _ in range(steps):
            grads = torch.autograd.grad(call(values, task.batch(0)), values, create_graph=how == "exact")
            values = [v - rate * g for v, g in zip(values, grads, strict=True)]
        if how == "reptile":
            found = [f - v for f, v in zip(first, values, strict=True)]
        else:
            found = list(torch.autograd.grad(call(values, task.batch(0, "valid")), first))
        total = [t + f.detach() / len(tasks) for t, f in zip(total, found, strict=True)]
    return total


HOW: dict[str, dict[str, Any]] = {
    "exact": {},
    "first order": {"second_order": False},
    "reptile": {"gradient": "reptile"},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("tasks", [1, 3])
def test_maml_its_first_order_form_and_reptile_are_those_of_plain_torch(how: str, tasks: int) -> None:
    made = made_engine(Fixed(), "sgd(lr=0.1)/init:sgd(lr=0.5)", {2: {"episode": 3, **HOW[how]}}, tasks=tasks)
    for _ in range(3):
        start, members = params(made, INIT), made.family.drawn(made.state.task.draw).tasks
        begun = made.state.task.draw
        while made.state.task.draw == begun:
            made.step()
        wanted = [p - 0.5 * g for p, g in zip(start, by_hand(0.1, 3, members, start, how), strict=True)]  # type: ignore[arg-type]
        for got, want, value in zip(params(made, INIT), wanted, made.state.task.params, strict=True):
            assert torch.allclose(got, want, rtol=0, atol=1e-12)
            assert torch.equal(value.detach().reshape(-1, *got.shape)[-1], got)


def test_a_first_order_start_of_one_task_is_as_good_as_that_of_tasks_side_by_side() -> None:
    found = []
    for second in (True, False):
        made = made_engine(Fixed(), "sgd(lr=0.1)/init:adam(lr=0.05)", {2: {"episode": 3, "second_order": second}})
        made.run(90)
        found.append(params(made, INIT))
    assert not torch.allclose(found[0][0], found[1][0])


@pytest.mark.parametrize("rule", ["annealing", "cmaes"])
def test_a_trial_starts_at_the_point_that_is_tried(rule: str) -> None:
    made = made_engine(Fixed(), f"sgd(lr=0.1)/init:{rule}", {2: {"episode": 4}})
    first = params(made, INIT)
    for _ in range(12):
        made.step()
        if made.state.task.age == 0:
            assert all(torch.equal(a, b) for a, b in zip(made.state.task.params, params(made, INIT), strict=True))
    made.run(60)
    assert not all(torch.equal(a, b) for a, b in zip(first, params(made, INIT), strict=True))


STACKS = {
    "exact": ("adam/init:adam", {}), "first order": ("adam/init:adam", {"second_order": False}),
    "reptile": ("adam/init:sgd", {"gradient": "reptile"}), "trials": ("sgd/init:cmaes", {}),
    "above": ("sgd/init:adam/annealing", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("at", [0, 7, 105])
def test_a_run_goes_on_bit_for_bit_from_a_checkpoint(name: str, at: int, tmp_path: Path) -> None:
    stack, more = STACKS[name]

    def fresh() -> Engine:
        return made_engine(Noisy(), stack, {2: {"episode": 4, **more}}, seed=1)

    goes_on_bit_for_bit(fresh, at, 118, tmp_path / "state")


def test_a_run_that_goes_on_with_another_rate_keeps_the_start_and_begins_an_episode_there() -> None:
    old, new = (made_engine(Fixed(), f"sgd(lr=0.1)/init:adam(lr={lr})", {2: {"episode": 4}}) for lr in (0.1, 0.2))
    old.run(10)
    carry(old, new, lambda slot, name: slot == INIT)
    assert all(torch.equal(a, b) for a, b in zip(params(new, INIT), params(old, INIT), strict=True))
    new.step()
    assert new.state.task.age == 0
    new.run(30)
    assert not torch.equal(params(new, INIT)[0], params(old, INIT)[0])


def test_only_the_last_point_of_an_episode_is_scored_on_held_out_batches() -> None:
    asked: list[int] = []

    class Asked(Fixed):
        def batch(self, index: int, split: Any = "train") -> Any:
            asked.extend([index] * (split == "valid"))
            return super().batch(index, split)

    made = made_engine(Asked(), "sgd(lr=0.1)/init:adam", {2: {"episode": 3}})
    asked.clear()
    made.run(9)
    assert asked == [3] * len(asked) and 2 <= len(asked) <= 3


def test_a_run_gives_exports_and_records_the_learned_start(tmp_path: Path) -> None:
    found = recopt.run("sinusoid(hidden=[8])", "sgd(lr=0.01)/init:adam(lr=0.01)", steps=30, tasks=2, track=False,
                       settings=["level2.episode=5"])  # fmt: skip
    start = found.start().state_dict()
    write_export(found.engine, found.spec, tmp_path / "out")
    kept = load_file(tmp_path / "out" / "start.safetensors")
    assert kept.keys() == start.keys() and all(torch.equal(kept[name], start[name]) for name in start)
    norm = torch.stack([p.norm() for p in params(found.engine, INIT)]).norm()
    assert found.history("init.norm", 2)[1][-1] == pytest.approx(float(norm), rel=1e-5)
    with pytest.raises(RecoptError, match="No level of this run moves a start"):
        recopt.run("quadratic", "sgd", steps=1, track=False).start()


class Growing(Regression):
    """Tasks with models of different sizes."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4 + self.seed % 97), nn.Tanh(), nn.Linear(4 + self.seed % 97, 1))


def test_tasks_of_other_shapes_are_refused() -> None:
    made = made_engine(Growing(), "sgd(lr=0.1)/init:adam", {2: {"episode": 2}})
    with pytest.raises(RecoptError, match="Draw 1 of the task has other parameters than the first one"):
        made.run(5)


REFUSED: dict[str, tuple[str, Settings]] = {
    "there are no episodes": ("sgd/init:adam", {}),
    "over a whole episode": ("sgd/init:adam", {2: {"episode": 4, "every": 2}}),
    "and a start is none": ("sgd/init:adam", {2: {"episode": 4, "normalize": "cosine"}}),
    "drop 'curriculum'": ("sgd/init:adam", {2: {"episode": 4, "curriculum": 9}}),
    "move it by a zero-order strategy": ("annealing/init:adam", {2: {"episode": 4}}),
    "let it stand right over them": ("sgd/adam/init:adam", {2: {"episode": 4}}),
    "as in sgd/init:adam": ("init:adam", {2: {"episode": 4}}),
    "are never full": ("sgd/init:annealing+annealing", {2: {"episode": 4}, 3: {"every": 8}}),
    "drop the patterns": ("sgd/init:sgd[0.*]", {2: {"episode": 4, "gradient": "reptile"}}),
    "use it for 'init:'": ("sgd/adam", {2: {"gradient": "reptile"}}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_graphs_that_cannot_move_a_start_are_refused(why: str) -> None:
    with pytest.raises(RecoptError, match=why):
        made_engine(Regression(), *REFUSED[why])


def test_the_drop_in_says_where_a_start_goes() -> None:
    with pytest.raises(RecoptError, match="give the task to recopt.run"):
        recopt.Optimizer(nn.Linear(2, 1).parameters(), "sgd/init:adam")


@pytest.mark.parametrize("stack", ["sgd(lr=0.1)/init:adam(lr=0.05)[0.*]", "sgd/loss:adam + init:cmaes",
                                   "sgd/init:adam/sgd@top[lr]"])  # fmt: skip
def test_a_stack_is_shown_as_it_was_written(stack: str) -> None:
    layers = parse(stack)
    named = strategies_of(layers)
    slots = make_strategies(named, 0)
    labels = {slot: written(slot, one) for slot, one in named.items()}
    levels = stack_levels(layers, slots)
    assert notation(levels, labels, {slot: [n for n, _ in s.named_parameters()] for slot, s in slots.items()}) == stack
