"""Tangents carried along: equal to an exact unroll and to differences, over windows, and part of the run's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts import trees
from recopt.contracts.task import Batch, Split, Task
from recopt.engine import checkpoint
from recopt.estimators.forward import Forward
from recopt.levels.estimator import estimator

from .. import differences
from ..differences import EXACT, Odd, Scored, Settings, Wave, Weighted, signal_of
from ..engines import Regression, engine, everything, graph

CASES: dict[str, tuple[str, Settings, int, type[Task], int]] = {
    "hyperparameters": ("rule/rule", {2: {"every": 5}}, 2, Wave, 1),
    "one step": ("rule/rule", {2: {"every": 1}}, 2, Wave, 1),
    "tasks side by side": ("rule/rule", {2: {"every": 4}}, 2, Wave, 3),
    "a learned rule": ("net/rule", {2: {"every": 4}}, 2, Wave, 1),
    "normalized, with a schedule": (
        "rule/rule", {1: {"normalize": "rms", "schedule": "cosine", "horizon": 9}, 2: {"every": 5}}, 2, Wave, 1),
    "last": ("rule/rule", {2: {"every": 4, "objective": "last"}}, 2, Wave, 1),
    "improvement, tasks": ("rule/rule", {2: {"every": 4, "objective": "improvement"}}, 2, Wave, 3),
    "held-out": ("rule/rule", {2: {"every": 4, "on": "valid"}}, 2, Wave, 1),
    "tied groups": ("rule@a[0.*]+rule@a[2.*]/rule", {3: {"every": 4}}, 3, Wave, 1),
    "groups, two slots": ("rule@a[0.*]+net@b[2.*]/rule", {3: {"every": 3}, 4: {"every": 3}}, 3, Wave, 1),
    "a loss": ("rule/loss:rule", {2: {"every": 3}}, 2, Weighted, 1),
    "a loss, tasks": ("rule/loss:rule", {2: {"every": 2, "on": "train"}}, 2, Scored, 2),
    "a loss and the rule": ("rule/loss:rule+rule", {2: {"every": 2}, 3: {"every": 2}}, 3, Scored, 1),
}  # fmt: skip


def told(settings: Settings, how: dict[str, Any]) -> Settings:
    return {n: {**s, **({} if n == 1 else how)} for n, s in settings.items()}


@pytest.mark.parametrize("name", CASES)
def test_tangents_give_the_gradient_of_an_exact_unroll(name: str) -> None:
    stack, settings, number, task, tasks = CASES[name]
    found = [
        signal_of(differences.engine(stack, told(settings, how), tasks, task=task), number)
        for how in ({"gradient": "forward"}, EXACT)
    ]
    one, other = ([float(x) for g in s.grads or [] for x in g.reshape(-1)] for s in found)
    assert one == pytest.approx(other, rel=1e-10, abs=1e-10 * max(map(abs, other)))
    assert max(map(abs, other)) > 1e-6
    assert float(found[0].loss) == pytest.approx(float(found[1].loss), rel=1e-12)


def test_tangents_go_on_over_windows() -> None:
    # The level hardly moves: the second window's score, as a function of a rate that both windows were run with.
    stack, settings = "rule/rule(lr=1e-200)", {2: {"every": 3, "gradient": "forward"}}

    def score(nudge: float) -> Any:
        made = differences.engine(stack, settings)
        rate = made.state.slots["rule"].params
        rate[0] = (rate[0].detach() + nudge).requires_grad_()
        return signal_of(made, 2, windows=3)

    found = score(0.0)
    assert found.grads is not None
    numeric = sum(w * float(score(n * 1e-2).loss) for n, w in ((2, -1), (1, 8), (-1, -8), (-2, 1))) / 0.12
    assert float(found.grads[0]) == pytest.approx(numeric, rel=1e-7)


def test_tangents_are_exact_where_the_guard_leaves_steps_of_some_tasks_out_or_takes_them_back() -> None:
    settings: Settings = {1: {"guard": True}, 2: {"every": 8, "gradient": "forward"}}
    made = differences.engine("rule/rule", settings, 4, task=Odd)
    assert sorted({member.seed % 2 for member in made.family.members(made.state.task)}) == [0, 1]
    assert differences.worst("rule/rule", settings, 2, tasks=4, task=Odd) < 1e-8


@pytest.mark.parametrize("stack", ["sgd/adam", "adam/adam[*]"])
def test_tangents_outlast_a_step_that_is_taken_back(stack: str) -> None:
    made = engine(Breaking(seed=2), stack, {2: {"gradient": "forward", "every": 4}})
    made.run(30)
    assert made.state.guard is not None and made.state.guard.counts["restored"] == 1
    assert float(made.state.levels[1].carried["loss"][0].abs()) > 0


class Breaking(Regression):
    """Two batches in a row are no numbers."""

    def batch(self, index: int, split: Split = "train") -> Batch:
        x, y = super().batch(index, split)
        return x, y + (float("nan") if index in (10, 11) else 0.0)


def test_tangents_begin_anew_with_an_episode() -> None:
    found = []
    for how in ({"gradient": "forward"}, EXACT):
        made = differences.engine("rule/rule", {2: {"every": 4, "episode": 4, **how}})
        found.append([float(g) for g in signal_of(made, 2, windows=3).grads or []])
    assert found[0] == pytest.approx(found[1], rel=1e-10)


@pytest.mark.parametrize("stack", ["adam/adam[lr,beta1]", "sgd/loss:adam/sgd", "adam/annealing[beta1]+adam[lr]"])
@pytest.mark.parametrize("at", [6, 9, 130])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(stack: str, at: int, tmp_path: Path) -> None:
    kind = Ridged if "loss" in stack else Regression
    told = {(3 if "+" in stack else 2): {"gradient": "forward", "every": 4}}
    told |= {2: {"every": 3}} if "+" in stack else {}

    def make() -> Any:
        return engine(kind(seed=2), stack, told, seed=1)

    whole, first, second = make(), make(), make()
    whole.run(at + 9)
    first.run(at)
    checkpoint.save(first, tmp_path / "a")
    checkpoint.load(second, tmp_path / "a")
    second.run(at + 9)
    assert all(
        torch.equal(a, b) for k, x in everything(whole).items() for a, b in zip(x, everything(second)[k], strict=True)
    )
    assert whole.state.levels[-1].carried.keys() == second.state.levels[-1].carried.keys()


def test_what_is_kept_does_not_grow_with_the_window() -> None:
    made = engine(Regression(seed=1), "sgd/adam", {2: {"gradient": "forward", "every": 1000}})
    made.run(250)
    kept = trees.tensors([made.state.slots["task"].params, made.state.levels[0].parts, made.state.levels[1].carried])
    assert all(t.grad_fn is None for t in kept)
    assert made.replay < 150  # a clean moment is at every step


class Ridged(Regression):
    """With a penalty that may be moved."""

    def loss_parameters(self) -> nn.Module:
        return nn.ParameterDict({"penalty": torch.tensor(-3.0)})

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        squares = torch.stack([(p**2).sum() for p in model.parameters()]).sum()
        return self.loss(model, batch) + next(parameters.parameters()).exp() * squares


@pytest.mark.parametrize(
    ("stack", "settings", "why"),
    [
        ("lstm/adam", {2: {"every": 5}}, r"'lstm' has [\d,]+, more than 100: name fewer.*gradient=unroll"),
        ("annealing/adam", {}, "since 'annealing' is zero-order"),
        ("adam/sgd/sgd", {2: {}, 3: {}}, "Level 3 .*set it on the level over level 1"),
        ("adam/adam", {2: {"second_order": False}}, "leave 'second_order' out"),
        ("adam/sgd/sgd", {2: {}, 3: {"gradient": "unroll", "second_order": True}}, "gradient=forward there"),
        ("adam/adam", {2: {"normalize": "cosine"}}, "normalize=cosine"),
        ("adam/adam", {2: {"penalty_update": 1.0}}, "knows no 'penalty_update'"),
    ],
)  # fmt: skip
def test_what_tangents_cannot_be_carried_through_is_refused(stack: str, settings: Settings, why: str) -> None:
    with pytest.raises(RecoptError, match=why):
        graph(stack, {n: {"gradient": "forward", **s} for n, s in ({2: {}} | dict(settings)).items()})


@estimator("carried along, halved")
class HalfForward(Forward):
    """A carrying estimator from outside the package."""

    def slopes(self, *told: Any) -> list[Tensor]:
        return [s / 2 for s in super().slopes(*told)]


def test_an_estimator_from_outside_carries_something_along() -> None:
    whole, half = (
        signal_of(differences.engine("rule/rule", {2: {"every": 3, "gradient": how}}), 2).grads
        for how in ("forward", "carried along, halved")
    )
    assert whole is not None
    assert half is not None
    assert [float(g) * 2 for g in half] == pytest.approx([float(g) for g in whole], rel=1e-12)
