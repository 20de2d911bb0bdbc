"""``recopt check`` of tasks agrees with what ``recopt run`` can train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.contracts.task import Batch, Split, Task
from recopt.testing import check_task

from ..zoo import ZOO, Trained


class OfZoo(Trained):
    """A model of the zoo."""

    number = 0

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(ZOO[self.number], seed=seed)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"again": self.loss(model, batch)}


NAMED = ["physics", "penalty", "adversary", "autoencoder", "full_backward", "tensors", "lstm", "recomputed_reentrant",
         "sparse", "linear", "rrelu", "closure"]  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_what_a_run_trains_conforms(name: str) -> None:
    number = next(n for n, entry in enumerate(ZOO) if entry.name == name)
    kind = type("OfZoo", (OfZoo,), {"number": number, "__doc__": "A model of the zoo."})
    assert not check_task(kind)
    found = recopt.run(kind(), "adam", steps=2, track=False, measure=1)
    assert {"loss", "again"} <= set(found.after)


class Plain(Task):
    """A line through the origin."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(2, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch).square().mean()


class Other(Plain):
    """A loss of another model than the one that is given."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        own = nn.Linear(1, 1).to(batch.dtype)
        return (
            own(batch).square().mean() + 0 * model(batch).mean() + 0.1 * model.weight.sum() - 0.1 * model.weight.sum()
        )


class Complex(Plain):
    """A model of complex numbers."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, dtype=torch.complex64)


class Broken(Plain):
    """A loss that fails on held-out batches."""

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(2, 1 if split == "train" else 3)


@pytest.mark.parametrize(
    ("kind", "rule", "text"),
    [
        (Complex, "models", "complex"),
        (Broken, "runs", "RuntimeError"),
        (Other, "losses", "0 everywhere|does not depend"),
    ],
)
def test_what_a_run_cannot_train_does_not(kind: type[Task], rule: str, text: str) -> None:
    found = check_task(kind)
    assert [f.rule for f in found] == [rule]
    assert any(word in found[0].message for word in text.split("|"))
