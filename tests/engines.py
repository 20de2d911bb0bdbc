"""Engines for tests: a stack in words, a small task, and what the engine said while it ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recopt.contracts.strategy import Strategy
from recopt.contracts.task import Batch, Split, Task
from recopt.engine.checkpoint import load, save
from recopt.engine.engine import Engine
from recopt.engine.model import Swapped
from recopt.levels.graph import Graph
from recopt.levels.level import TASK, Level
from recopt.levels.notation import levels_of, parse
from recopt.stacks.plugins import load_strategy

Settings = Mapping[int, Mapping[str, Any]]
SPLITS = {"train": 0, "valid": 1, "test": 2}


class Regression(Task):
    """A small net on noisy data, with a new batch at every index; ``scale`` multiplies the loss."""

    net: nn.Module | None = None
    scale = 1.0
    width = 3

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.width, 4), nn.Tanh(), nn.Linear(4, 1))

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index, SPLITS[split])
        x = torch.randn(8, self.width, generator=g, dtype=torch.float64)
        return x, x.sum(1, keepdim=True).sin() + 0.1 * torch.randn(8, 1, generator=g, dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return self.scale * ((model(x) - y) ** 2).mean()


class FromZero(Regression):
    """Linear regression from zero."""

    def model(self) -> nn.Module:
        made = nn.Linear(self.width, 1)
        for p in made.parameters():
            nn.init.zeros_(p)
        return made


class Noisy(Regression):
    """With batch statistics and dropout: what a trial or a member leaves behind would show."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))


class Bowl(Task):
    """½ Σ aᵢ xᵢ² without noise, from a start that the seed draws."""

    scale = 1.0

    def model(self) -> nn.Module:
        return nn.Linear(5, 1, bias=False)

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1], dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        weight: Any = model.weight
        return self.scale * 0.5 * (batch * weight[0] ** 2).sum()


class Recorder:
    """The sink of an engine: every point of the record, in order."""

    def __init__(self) -> None:
        self.points: list[tuple[int, int, dict[str, Any]]] = []

    def __call__(self, level: int, step: int, values: Mapping[str, Any]) -> None:
        self.points.append((level, step, dict(values)))

    def series(self, level: int, key: str) -> list[float]:
        """The values of one key of one level (0: the task)."""
        return [float(v[key]) for n, _, v in self.points if n == level and key in v]

    def steps(self, level: int, key: str) -> list[int]:
        """The steps at which they were recorded."""
        return [step for n, step, v in self.points if n == level and key in v]


def graph(stack: str, settings: Settings | None = None, rules: Mapping[str, type[Strategy]] | None = None,
          domains: Mapping[str, Mapping[str, str]] | None = None) -> Graph:  # fmt: skip
    """The graph of ``stack``, of the shipped strategies and ``rules``, with ``settings`` by level number (0: all).

    A ``teacher`` among them is in stack notation, and its slot is called that.
    """
    settings = settings or {}
    layers = parse(stack)
    slots: dict[str, Strategy] = {}
    for term in (t for layer in layers for t in layer):
        if term.slot not in slots:
            kind = (rules or {}).get(term.name) or load_strategy(term.name)
            slots[term.slot] = kind(**term.settings, domains=(domains or {}).get(term.slot))
    for name in [str(s["teacher"]) for s in settings.values() if "teacher" in s]:
        teacher = parse(name)[0][0]
        slots.setdefault(name, load_strategy(teacher.name)(**teacher.settings))
    found = levels_of(layers, {k: [n for n, _ in s.named_parameters()] for k, s in slots.items()})
    levels = [
        Level(**{**level.model_dump(exclude_unset=True), **settings.get(0, {}), **settings.get(n, {})})
        for n, level in enumerate(found, 1)
    ]
    return Graph(levels, slots)


def engine(task: Task, stack: str, settings: Settings | None = None, *, rules: Any = None, domains: Any = None,
           **options: Any) -> Engine:  # fmt: skip
    """An engine in float64 whose sink is a :class:`Recorder`."""
    torch.manual_seed(3)
    options = {"dtype": torch.float64, "sink": Recorder(), **options}
    return Engine(task, graph(stack, settings, rules, domains), **options)


def params(made: Engine, slot: str = TASK) -> list[Tensor]:
    """A slot's value, without a graph."""
    return [p.detach().clone() for p in made.state.slots[slot].params]


def everything(made: Engine) -> dict[str, list[Tensor]]:
    """All slots' values."""
    return {name: params(made, name) for name in made.state.slots}


def goes_on_bit_for_bit(fresh: Callable[[], Engine], at: int, steps: int, place: Path) -> None:
    """A run that is saved at ``at`` and loaded into a fresh engine ends as one that was not stopped."""
    whole, part, again = fresh(), fresh(), fresh()
    whole.run(steps)
    part.run(at)
    save(part, place)
    load(again, place)
    again.run(steps)
    for name, wanted in everything(whole).items():
        assert all(torch.equal(a, b) for a, b in zip(everything(again)[name], wanted, strict=True)), name


def losses(made: Engine) -> list[float]:
    """The task's losses so far."""
    sink = made.sink
    assert isinstance(sink, Recorder)
    return sink.series(0, "loss")


def loss_at(made: Engine, params: Sequence[Tensor], batch: Any) -> Tensor:
    """The loss of an engine's first task at other parameters, with its graph."""
    slot, family = made.state.task, made.family
    return Swapped(family.module(slot.draw)).loss(family.members(slot)[0], params, slot.buffers, batch)[0]
