"""The points of a population: scored in one call, as they are one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.checking.errors import Notice
from recopt.engine.copies import Copies
from recopt.engine.engine import Engine

from .. import engines


class Statistics(engines.Regression):
    """With batch statistics."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))


class Inside(engines.Regression):
    """Differentiates inside its loss."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return super().loss(model, batch) + slope.pow(2).mean()


class Branching(engines.Regression):
    """Cannot be mapped: it asks a number of the model for its value."""

    def loss(self, model: Any, batch: Any) -> Tensor:
        return super().loss(model, batch) * (2.0 if model[0].bias.sum() > 0 else 1.0)


STACKS = ["cmaes(population=8)", "evolution(population=4)"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the calls in which several points are scored."""
    found: list[int] = []
    mapped = Copies._mapped

    def call(self: Copies, slot: Any, points: Any, batch: Any) -> Any:
        losses = mapped(self, slot, points, batch)
        found.append(0 if losses is None else len(losses))
        return losses

    monkeypatch.setattr(Copies, "_mapped", call)
    return found


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copies, "groups", lambda self, count, size: [])


def run(task: Any, stack: str, steps: int = 6, **options: Any) -> Engine:
    made = engines.engine(task, stack, {2: {"every": 3}} if "/" in stack else None, seed=2, **options)
    made.run(steps)
    return made


def same(one: Engine, other: Engine) -> None:
    for name, values in engines.everything(one).items():
        for a, b in zip(values, engines.everything(other)[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert engines.losses(one) == pytest.approx(engines.losses(other), abs=1e-12)
    assert one.budget.total.loss == other.budget.total.loss
    assert all(map(torch.equal, one.state.rng, other.state.rng))


@pytest.mark.parametrize("task", [engines.Regression(seed=2), Statistics(seed=2)], ids=["plain", "statistics"])
@pytest.mark.parametrize("stack", STACKS)
def test_points_for_the_model_are_scored_in_one_call_and_alike(
    stack: str, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = counted(monkeypatch)
    together = run(task, stack)
    assert sizes and min(sizes) >= 3
    alone(monkeypatch)
    same(together, run(task, stack))


def test_a_loss_that_differentiates_inside_and_one_that_draws_are_scored_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for task in (Inside(seed=2), engines.Noisy(seed=2)):
        with monkeypatch.context() as patch:
            sizes = counted(patch)
            together = run(task, "cmaes(population=8)")
            assert not any(sizes)
        with monkeypatch.context() as patch:
            alone(patch)
            same(together, run(task, "cmaes(population=8)"))


def test_a_model_that_cannot_be_mapped_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(Notice, match="scored one after the other, as the model cannot be mapped: .*vectorize") as told:
        together = run(Branching(seed=2), "cmaes(population=8)")
    assert len(told) == 1
    alone(monkeypatch)
    same(together, run(Branching(seed=2), "cmaes(population=8)"))
