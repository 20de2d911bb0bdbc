"""One level against plain torch, models of all kinds in unrolls, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts.task import Batch, Split, Task
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.levels.seeds import mix

from .. import engines

EXACT = {"gradient": "unroll", "second_order": True}
Fn = nn.functional


class Sequences(Task):
    """Short sequences or small images for one of several models."""

    kind = "lstm"

    def model(self) -> nn.Module:
        return MODELS[self.kind]()

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index, engines.SPLITS[split])
        return torch.randn(6, 1, 4, 4, generator=g), torch.randint(0, 3, (6,), generator=g)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return Fn.cross_entropy(model(batch[0]), batch[1])


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x[:, 0])[0][:, -1])  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two layers that share a weight, a frozen one, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.still = nn.Linear(16, 16)
        for p in self.still.parameters():
            p.requires_grad_(False)
        self.out = nn.Linear(16, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.b(self.still(torch.tanh(self.a(x.flatten(1)))))))  # type: ignore[no-any-return]


def _norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


MODELS: dict[str, Any] = {
    "lstm": Lstm,
    "tied": Tied,
    "batch norm, dropout": _norm_net,
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)),
}
TORCH: dict[str, tuple[str, Any]] = {
    "sgd": ("sgd(lr=0.1, momentum=0.9, weight_decay=0.01)",
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
    "adam": ("adam(lr=0.01)", lambda p: torch.optim.Adam(p, lr=0.01)),
}  # fmt: skip


def task(kind: str) -> Sequences:
    made = Sequences(seed=4)
    made.kind = kind
    return made


@pytest.mark.filterwarnings("ignore:The loss does not reach 'unused")
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rule", TORCH)
def test_one_level_equals_torch(kind: str, rule: str) -> None:
    stack, make = TORCH[rule]
    made = engines.engine(task(kind), stack, {0: {"guard": False}}, seed=4)
    made.run(25)
    torch.manual_seed(4)
    model = task(kind).model().double()
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(mix(4, 1))
    losses = []
    for step in range(25):
        x, y = task(kind).batch(step)
        optimizer.zero_grad()
        loss = Fn.cross_entropy(model(x.double()), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert engines.losses(made) == pytest.approx(losses, rel=1e-12)
    mine = dict(zip(made.graph.names["task"], engines.params(made), strict=True))
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(mine[name], p.detach(), rtol=1e-11, atol=1e-13)
    buffers = made.state.slots["task"].buffers
    still = [p for p in model.parameters() if not p.requires_grad]
    for (name, c), b in zip(model.named_buffers(), buffers[len(still) :], strict=True):
        torch.testing.assert_close(b, c, rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.filterwarnings("ignore:The loss does not reach 'unused")
@pytest.mark.parametrize("kind", MODELS)
def test_models_in_exact_unrolls(kind: str) -> None:
    made = engines.engine(task(kind), "sgd(lr=0.1)/adam(lr=0.1)", {2: {**EXACT, "every": 3}})
    made.run(20)
    assert made.state.levels[1].steps == 6
    assert not torch.equal(engines.params(made, "sgd")[0], torch.tensor(0.1, dtype=torch.float64).log())


def test_complex_parameters_are_refused() -> None:
    class Waves(engines.Bowl):
        def model(self) -> nn.Module:
            model = nn.Module()
            model.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
            return model

    with pytest.raises(RecoptError, match="complex"):
        engines.engine(Waves(), "sgd")


def test_the_task_has_to_have_something_to_move() -> None:
    class Still(engines.Bowl):
        def model(self) -> nn.Module:
            return nn.Linear(5, 1).requires_grad_(False)

    with pytest.raises(RecoptError, match="nothing to move"):
        engines.engine(Still(), "sgd")


def test_a_graph_without_slots_is_refused_with_a_sentence() -> None:
    with pytest.raises(RecoptError, match="Unknown slot"):
        Graph([Level(moves="task", by="adam")], {})
