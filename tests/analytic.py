"""The shipped analytic rules with all their options, and the three ways in which their texts run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from recopt import Params, Rule, Trial
from recopt.levels.notation import parse
from recopt.levels.parts import Part
from recopt.rules.columns import ColumnMover
from recopt.rules.numbers import NumberMover, NumberSpace
from recopt.rules.rule import text_of
from recopt.rules.tensors import Loaded
from recopt.stacks.plugins import load_strategy

RULES = [
    "sgd", "sgd(momentum=0.9)", "sgd(momentum=0.9,nesterov=true,weight_decay=0.01)", "sgd(weight_decay=0.1)",
    "adam", "adam(beta1=0)", "adam(eps=0)", "adam(weight_decay=0.1)",
    "adam(weight_decay=0.1,decoupled_weight_decay=false)", "adagrad",
    "adagrad(initial_accumulator_value=0.1,lr_decay=0.01,weight_decay=0.1)", "rmsprop", "rmsprop(momentum=0.5)",
    "rmsprop(centered=true)", "rmsprop(centered=true,momentum=0.5,weight_decay=0.1)", "rmsprop(eps=0)",
    "kesten", "kesten(power=1)", "hypergradient", "schedule-free", "schedule-free(eps=0,weight_decay=0.1,beta1=0.8)",
    "cocob", "cocob(patience=1)",
]  # fmt: skip
SHAPES = [(3,), (2, 4), ()]


def made(text: str, plain: bool = True) -> Rule:
    """A rule in stack notation, in float64; ``plain``: without its accelerator."""
    ((term,),) = parse(text)
    kind = load_strategy(term.name)
    rule = (type(kind.__name__, (kind,), {"accelerator": None}) if plain else kind)(**term.settings).double()
    found = text_of(rule)
    assert found is not None
    return found


def random(seed: int, shapes: Any = SHAPES) -> Params:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


class InPlace:
    """A rule on columns, in place."""

    def __init__(self, rule: Rule, moved: frozenset[str] = frozenset(), window: int = 0) -> None:
        self.space = NumberSpace(rule)
        self.numbers = self.space.first()
        self.mover = ColumnMover(rule, self.space, moved, window)
        self.point = random(0)
        self.part = Part([0, 1, 2], self.mover.begin(self.point))

    def step(self, grads: Params, scale: float = 1.0) -> None:
        self.mover.step(self.part, self.point, grads, self.numbers, scale)

    def slopes(self, cotangents: Params) -> list[float]:
        sums = self.mover.measure(self.part, self.point, cotangents, self.numbers)
        read = {key: float(sum(float(t) for t in terms)) for key, terms in sums.items()}
        found = self.mover.slopes(self.part, read, self.numbers)
        assert found is not None
        return found


class OnNumbers:
    """A rule on floats, each of which stands for one entry."""

    def __init__(self, rule: Rule, moved: frozenset[str] = frozenset(), window: int = 0) -> None:
        self.space = NumberSpace(rule)
        self.numbers = self.space.first()
        self.mover = NumberMover(rule, self.space, moved, window)
        self.point: list[float] = flat(random(0)).tolist()
        self.part = Part([0], self.mover.begin(self.point))

    def step(self, grads: Params) -> None:
        update = self.mover.step(self.part, self.point, flat(grads).tolist(), self.numbers.value)
        assert update is not None
        self.point = [p + u for p, u in zip(self.point, update, strict=True)]

    def slopes(self, cotangents: Params) -> list[float]:
        found = self.mover.slopes(self.part, flat(cotangents).tolist(), self.numbers)
        assert found is not None
        return found


class Taped:
    """A rule's ``forward`` on tensors, at coordinates of our choice."""

    def __init__(self, rule: Rule, coords: Params | None = None) -> None:
        self.loaded = Loaded(rule)
        self.coords = coords if coords is not None else [p.detach().clone() for p in rule.parameters()]
        self.point = random(0)
        self.state: Any = rule.init(self.point)

    def step(self, grads: Params, scale: float = 1.0) -> None:
        rule = self.loaded.at(self.coords)
        deltas, self.state = rule(self.point, [Trial(self.point, None, grads)], self.state, Generator())
        self.loaded.leave()
        self.point = [p + scale * d for p, d in zip(self.point, deltas, strict=True)]


def names(rule: Rule) -> list[str]:
    return [name for name, _ in rule.named_parameters()]
