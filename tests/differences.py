"""Hypergradients of an engine, and what central differences say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.contracts.settings import positive, unit
from recopt.contracts.strategy import Params, State, Strategy
from recopt.contracts.task import Batch, Split, Task
from recopt.contracts.trees import detach
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.levels.notation import levels_of, parse
from recopt.levels.state import Numbers, Signal


class Rule(Strategy):
    """A smooth rule with momentum, so that its state carries a graph; it reads the point (decay)."""

    lr = positive(0.05)
    beta = unit(0.6)
    decay = positive(0.02)

    def init(self, point: Params) -> State:
        return {"m": [torch.zeros_like(p) for p in point], "t": 0}

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        m = [self.beta * m + (1 - self.beta) * g for m, g in zip(state["m"], trials[0].grads, strict=True)]
        delta = [-self.lr * (torch.tanh(x) + self.decay * p) for x, p in zip(m, point, strict=True)]
        return delta, {"m": m, "t": state["t"] + 1}


class Net(Strategy):
    """A learned rule: one hidden layer on each gradient, with its weights as meta-parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(1, 3)
        self.b = nn.Linear(3, 1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        out = [-0.1 * self.b(torch.tanh(self.a(g.reshape(-1, 1)))).reshape(g.shape) for g in trials[0].grads]
        return out, state


class Wave(Task):
    """A small non-convex task on a net of two tensors, with a new batch at every index."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index, {"train": 0, "valid": 1, "test": 2}[split])
        return torch.randn(5, 3, generator=g, dtype=torch.float64), torch.randn(5, 1, generator=g, dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return ((model(x) - y) ** 2).mean() + 0.1 * torch.sin(model(x)).mean()


class Odd(Wave):
    """The same, but every other task has batches that are no numbers: one alone, and two in a row."""

    def batch(self, index: int, split: Split = "train") -> Batch:
        x, y = super().batch(index, split)
        return x, y + (float("nan") if split == "train" and self.seed % 2 and index in (2, 4, 5) else 0.0)


class Weighted(Wave):
    """The same, with weights of its examples and a penalty as parameters of its training loss."""

    def loss_parameters(self) -> nn.Module:
        return nn.ParameterDict({"weights": torch.linspace(-1, 1, 5), "penalty": torch.tensor(-1.0)})

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        x, y = batch
        given = dict(parameters.named_parameters())
        penalty = given["penalty"].exp() * torch.stack([(p**2).sum() for p in model.parameters()]).sum()
        return (given["weights"].sigmoid() * ((model(x) - y) ** 2)[:, 0]).mean() + 0.1 * penalty


class Scored(Weighted):
    """The same, whose held-out loss reads the parameters too."""

    def held_out_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.training_loss(model, batch, parameters)


Settings = Mapping[int, Mapping[str, Any] | None]
RULES: dict[str, type[Strategy]] = {"rule": Rule, "net": Net}


def engine(stack: str, settings: Settings, tasks: int = 1, seed: int = 0, task: type[Task] = Wave) -> Engine:
    """An engine on ``task`` with ``settings`` by level number; None leaves a level out."""
    torch.manual_seed(3)
    slots: dict[str, Strategy] = {}
    layers = parse(stack)
    for term in (t for layer in layers for t in layer):
        if term.slot not in slots:
            slots[term.slot] = RULES[term.name](**term.settings)
    if any(s and "teacher" in s for s in settings.values()):
        slots["t"] = Rule(lr=0.2, beta=0.3)
    levels = levels_of(layers, {k: [n for n, _ in s.named_parameters()] for k, s in slots.items()})
    levels = [
        Level(**{"normalize": "none", "guard": False, **level.model_dump(exclude_unset=True), **given})
        for n, level in enumerate(levels, 1)
        if (given := settings.get(n, {})) is not None
    ]
    return Engine(task(), Graph(levels, slots), seed=seed, tasks=tasks, dtype=torch.float64)


class Done(Exception):
    """The window of interest has closed."""


def signal_of(made: Engine, number: int, nudge: dict[int, Tensor] | None = None, windows: int = 1) -> Signal:
    """The signal of level ``number`` at its ``windows``-th closing, with its optimizee nudged at the opening."""
    found: list[Signal] = []
    deliver = made.tower.up._deliver
    name = made.levels[number - 1].moves

    def spy(state: Any, n: int, signal: Signal | None) -> None:
        if signal is not None and n == number - 1:
            found.append(signal)
            if len(found) == windows:
                raise Done
        deliver(state, n, signal)

    made.tower.up._deliver = spy  # type: ignore[method-assign]

    def move() -> None:
        for i, d in (nudge or {}).items():
            slot = made.state.slots[name]
            if isinstance(slot, Numbers):
                made.tower.carriers.spaces[name].put(slot, [i], [slot.coords[i] + float(d)])
            else:
                slot.params[i] = (slot.params[i].detach() + d).requires_grad_()

    if windows == 1:
        move()
    else:
        step = made.tower._down
        opened: list[int] = []

        def after(state: Any, n: int, given: Any, scale: float) -> None:
            step(state, n, given, scale)
            if n == number - 1 and len(found) == windows - 1 and not opened:
                opened.append(1)
                move()

        made.tower._down = after  # type: ignore[assignment]
    with pytest.raises(Done):
        made.run(1000)
    return found[-1]


def difference(
    stack: str, settings: Settings, number: int, windows: int, tasks: int,
    position: int, entry: tuple[int, Tensor], step: float, task: type[Task],
) -> float:  # fmt: skip
    """The fourth-order central difference of a meta-loss: truncation is O(step⁴), rounding O(1/step)."""
    k, like = entry
    total = 0.0
    for times, weight in ((2.0, -1.0), (1.0, 8.0), (-1.0, -8.0), (-2.0, 1.0)):
        d = torch.zeros(like.numel(), dtype=like.dtype)
        d[k] = times * step
        nudged = {position: d.view(like.shape)}
        total += weight * float(
            signal_of(engine(stack, settings, tasks, task=task), number, nudged, windows).loss.detach()
        )
    return total / (12 * step)


def worst(
    stack: str, settings: Settings, number: int, windows: int = 1, tasks: int = 1, task: type[Task] = Wave
) -> float:  # fmt: skip
    """The largest error of a level's hypergradient, relative to its largest entry."""
    made = engine(stack, settings, tasks, task=task)
    signal = signal_of(made, number, windows=windows)
    assert signal.grads is not None
    signal = detach(signal)
    index = made.tower.slots.index(made.state, number - 1)
    scale = max(float(g.abs().max()) for g in signal.grads)
    gaps = []
    for position, g in zip(index, signal.grads, strict=True):
        for k in range(min(g.numel(), 2)):
            gap = float("inf")
            for step in (1e-3, 1e-2):
                if gap > 1e-9 * scale:
                    numeric = difference(stack, settings, number, windows, tasks, position, (k, g), step, task)
                    gap = min(gap, abs(numeric - float(g.flatten()[k])))
            gaps.append(gap)
    return max(gaps) / scale


EXACT = {"gradient": "unroll", "second_order": True}
