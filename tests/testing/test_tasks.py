"""``recopt check`` of tasks agrees with what ``recopt run`` can train."""

from __future__ import annotations

import warnings
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


SAME = "The data and the loss are the same for all seeds"


@pytest.mark.filterwarnings(f"ignore:{SAME}")
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


class DrawnOnce(Plain):
    """Data that ``__init__`` draws from the seed, so that they are those of the first seed for all samples."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.x = torch.randn(9, 1, generator=self.generator())

    def batch(self, index: int, split: Split = "train") -> Batch:
        return self.x[:2]


class Shuffled(DrawnOnce):
    """The same, in an order that the seed gives."""

    def batch(self, index: int, split: Split = "train") -> Batch:
        return self.x[torch.randint(9, (2,), generator=self.generator(index))]


class Redrawn(DrawnOnce):
    """The same, drawn anew for each sample."""

    def sample(self, seed: int) -> Redrawn:
        return Redrawn(seed=seed)


class Still(Plain):
    """One start for all seeds."""

    def model(self) -> nn.Module:
        made = super().model()
        nn.init.ones_(next(made.parameters()))
        return made


class InBuffers(Plain):
    """Data in a buffer of the model."""

    def model(self) -> nn.Module:
        made = super().model()
        made.register_buffer("scale", torch.rand(()))
        return made

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        found: Tensor = model.get_buffer("scale") * model(batch).square().mean()
        return found


@pytest.mark.parametrize(("kind", "said"), [
    (Redrawn, ""), (InBuffers, ""), (Still, f"{SAME}: if"), (Plain, f"{SAME}, only the start of the model is another"),
])  # fmt: skip
def test_a_task_that_is_the_same_for_all_seeds_is_told_of(kind: type[Task], said: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert not check_task(kind)
    assert [str(w.message)[: len(said)] for w in heard] == [said] * bool(said)


@pytest.mark.filterwarnings(f"ignore:{SAME}")
@pytest.mark.parametrize(
    ("kind", "rule", "text"),
    [
        (Complex, "models", "complex"),
        (Broken, "runs", "RuntimeError"),
        (Other, "losses", "0 everywhere|does not depend"),
        (DrawnOnce, "seeds", "samples share what __init__ draws"),
        (Shuffled, "seeds", "samples share what __init__ draws"),
    ],
)
def test_what_a_run_cannot_train_does_not(kind: type[Task], rule: str, text: str) -> None:
    found = check_task(kind)
    assert [f.rule for f in found] == [rule]
    assert any(word in found[0].message for word in text.split("|"))
