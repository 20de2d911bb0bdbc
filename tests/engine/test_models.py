"""Models as people write them: trained as torch trains them, or refused, but never left as they were in silence."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.contracts.task import Batch, Split, Task


class Squares(Task):
    """(w x)² at x = 1, from w = 1: by gradient descent at a rate of 0.1 the losses are 1, 0.64, 0.4096 …"""

    kind: type[nn.Module]

    def model(self) -> nn.Module:
        return self.kind()

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch) ** 2).mean()


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.own.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x)


class Never(One):
    """Its own forward is never called."""

    def nll(self, x: Tensor) -> Tensor:
        return (self.own(x) ** 2).mean()


class NeverTask(Squares):
    kind = Never

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return model.nll(batch)


class Referring(One):
    """Holds its part in a tuple, and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.call = (self.own,), partial(self.own)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x) + 0 * self.parts[0](x)


class ReferringTask(Squares):
    kind = Referring


class Hooked(One):
    """A hook doubles what it gives."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.own.weight.fill_(0.5)
        self.own.register_forward_hook(lambda module, given, out: 2 * out)


class HookedTask(Squares):
    kind = Hooked


class Listed(Squares):
    def model(self) -> nn.Module:
        return nn.ModuleDict({"a": One()})

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return (model["a"](batch) ** 2).mean()


def by_torch(task: Task, rate: float, steps: int) -> list[float]:
    model = task.model().double()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=rate), []
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(step).double())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


TASKS = [NeverTask, ReferringTask, HookedTask, Listed]


@pytest.mark.parametrize("kind", TASKS)
def test_models_are_trained_as_torch_trains_them(kind: type[Task]) -> None:
    found = recopt.run(kind(), "sgd(lr=0.1)", steps=6, dtype="float64", track=False, measure=0)
    assert list(found.losses) == pytest.approx(by_torch(kind(), 0.1, 6), rel=1e-12)
    assert found.losses[-1] < 0.2
    above = recopt.run(kind(), "sgd(lr=0.1)/sgd", steps=6, dtype="float64", track=False, measure=0)
    assert above.losses[-1] < 0.2


WAYS: list[dict[str, Any]] = [
    {"tasks": 2},
    {"settings": ["level2.second_order=true", "level2.every=2"]},
    {"tasks": 2, "settings": ["level2.second_order=true", "level2.every=2"]},
]


@pytest.mark.filterwarnings("ignore:The model is called by torch.func.functional_call, not by higher")
@pytest.mark.parametrize("more", WAYS)
@pytest.mark.parametrize("kind", TASKS)
def test_they_are_too_side_by_side_and_under_exact_levels(kind: type[Task], more: dict[str, Any]) -> None:
    found = recopt.run(kind(), "sgd(lr=0.1)/sgd(lr=1e-12)", steps=6, dtype="float64", track=False, measure=0, **more)
    assert list(found.losses) == pytest.approx(by_torch(kind(), 0.1, 6), rel=1e-8)
