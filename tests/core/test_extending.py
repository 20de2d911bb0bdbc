"""Rules and transforms from outside the package: one small class or function each, fast and right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, nn

import recopt
from recopt import Column, Hypers, Ops, Params, RecoptError, Rule, State, Strategy, Term, Trial, positive, unit
from recopt.estimators.unroll import Unroll
from recopt.levels.estimator import Closing, estimator
from recopt.levels.level import Level
from recopt.levels.state import Signal, Window
from recopt.levels.structure import Structure
from recopt.levels.transforms import TRANSFORMS, transform
from recopt.testing import assert_conforms

from .. import engines
from ..loops import batches, far, model_of, train


class Belief(Rule):
    """Steps that are long where gradients are as expected (Zhuang et al. 2020, 2010.07468), without corrections."""

    linear: ClassVar[str | None] = "lr"
    lr = positive(0.01)
    beta1 = unit(0.9)
    beta2 = unit(0.99)
    eps = positive(1e-3)
    weight_decay = positive(0.0, off=0.0)

    def init(self, point: Params) -> State:
        return {name: [torch.zeros_like(p) for p in point] for name in ("mean", "square")}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        mean = ops.lerp(state["mean"], grads, 1 - hyper["beta1"])
        return {"mean": mean, "square": ops.lerp_square(state["square"], ops.add(grads, mean, -1.0), hyper["beta2"])}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        lr = hyper["lr"]
        decay = [Term(-lr * hyper["weight_decay"], point)] if self.on("weight_decay") else []
        return [Term(-lr, state["mean"], ops.roots(state["square"], hyper["eps"])), *decay]


class PlainBelief(Strategy):
    """The same, as anybody would write it."""

    lr = positive(0.01)
    beta1 = unit(0.9)
    beta2 = unit(0.99)
    eps = positive(1e-3)
    weight_decay = positive(0.0, off=0.0)

    init = Belief.init

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        mean = [self.beta1 * m + (1 - self.beta1) * g for m, g in zip(state["mean"], grads, strict=True)]
        square = [self.beta2 * s + (1 - self.beta2) * (g - m) ** 2
                  for s, g, m in zip(state["square"], grads, mean, strict=True)]  # fmt: skip
        spread = [s.clamp_min(torch.finfo(torch.float64).tiny).sqrt() + self.eps for s in square]
        decay = self.weight_decay if self.on("weight_decay") else 0.0
        delta = [-self.lr * (m / s + decay * p) for m, s, p in zip(mean, spread, point, strict=True)]
        return delta, {"mean": mean, "square": square}


class Scaling(Rule):
    """Reads the point in the midst of its update, and its last gradient in its state."""

    linear: ClassVar[str | None] = "lr"
    lr = positive(0.01)
    pull = positive(0.5)

    def init(self, point: Params) -> State:
        return {"before": [torch.zeros_like(p) for p in point]}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        return {"before": grads}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        lr, weight = hyper["lr"], ops.add(ops.mul(point, point), 1.0)
        return [Term(-lr, ops.mul(grads, weight)), Term(-lr * hyper["pull"], point, weight), Term(-0.1 * lr, point)]


class PlainScaling(Scaling):
    """The same, whose ``forward`` is of its own."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        return [-self.lr * (g * (1 + p * p) + self.pull * p / (1 + p * p) + 0.1 * p)
                for g, p in zip(grads, point, strict=True)], {"before": [g + 0 for g in grads]}  # fmt: skip


PAIRS = [(Belief, PlainBelief, {}), (Belief, PlainBelief, {"weight_decay": 0.1}), (Scaling, PlainScaling, {})]


def kinds_of(optimizer: recopt.Optimizer) -> list[str]:
    """By level, how it is carried."""
    return [type(mover).__name__ for mover in optimizer._towers.all[0].tower.carriers.movers]


@pytest.mark.parametrize("moved", ["lr", "*"])
@pytest.mark.parametrize(("rule", "same", "settings"), PAIRS, ids=["belief", "decay", "scaling"])
def test_a_rule_is_fast_in_towers_and_right(rule: Any, same: Any, settings: dict[str, float], moved: str) -> None:
    found = []
    for kind, fused in ((rule, True), (same, False), (rule, False)):
        model = model_of()
        stack = [kind(**settings), kind(lr=0.02, **settings), kind(lr=0.02)]
        levels = {n: {"only": [moved]} for n in (2, 3)}
        optimizer = recopt.Optimizer(model.parameters(), stack, fused=fused, levels=levels)
        losses = train(model, optimizer, 40)
        kinds = kinds_of(optimizer)
        assert kinds == (["ColumnMover", "NumberMover", "NumberMover"] if fused else ["TensorMover"] * 3)
        found.append((losses, list(optimizer.hyperparameters().values())))
    for losses, values in found[1:]:
        assert far(losses, found[0][0]) < 1e-11
        assert values == pytest.approx(found[0][1], rel=1e-8)
    assert found[0][0][-1] < found[0][0][0]


def test_a_rule_is_right_over_windows_and_may_be_taken_back() -> None:
    found = []
    for kind, fused in ((Belief, True), (PlainBelief, False)):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), [kind(), "sgd"], every=4, fused=fused)
        assert kinds_of(optimizer)[0] == ("ColumnMover" if fused else "TensorMover")
        found.append(train(model, optimizer, 30))
    assert far(*found) < 1e-12
    for kind in (Belief, Scaling):
        w = nn.Parameter(torch.ones(4, dtype=torch.float64))
        optimizer, places = recopt.Optimizer([w], [kind(), "sgd"]), []
        for bad in (0.0, 0.0, torch.nan, torch.nan):
            places.append(w.detach().clone())
            w.grad = 2 * w.detach() + bad
            with pytest.warns(RuntimeWarning) if bad and len(places) == 3 else contextlib.nullcontext():
                optimizer.step()
        assert optimizer.guards()["restored"] == 1
        torch.testing.assert_close(w.detach(), places[1], rtol=1e-12, atol=1e-14)


def test_what_a_rule_keeps_of_its_gradients_is_its_own() -> None:
    """A training loop writes the next gradients into the same tensors."""
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = recopt.Optimizer([w], [Scaling()])
    w.grad = torch.full_like(w, 2.0)
    optimizer.step()
    w.grad.zero_()
    (part,) = optimizer._towers.all[0].state.levels[0].parts
    assert part.strategy["before"][0].tolist() == [2.0] * 3


@pytest.mark.parametrize("rule", [Belief, Scaling])
def test_such_rules_conform(rule: type[Rule]) -> None:
    assert_conforms(rule)


@pytest.fixture
def half() -> Iterator[str]:
    @transform("half")
    def halved(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
        return [g * 0.5 for g in signal], state

    yield "half"
    del TRANSFORMS["half"]


@pytest.mark.parametrize("fused", [True, False])
def test_a_transform_from_outside_is_used_by_its_name(half: str, fused: bool) -> None:
    found = []
    for normalize, lr in ((half, 0.2), ("none", 0.1)):
        model, data = model_of(), batches()
        levels = {1: {"normalize": half}, 2: {"normalize": normalize}}
        stack = f"sgd(lr=0.1)/sgd(lr={lr})/sgd(lr=0.01)"
        optimizer = recopt.Optimizer(model.parameters(), stack, levels=levels, fused=fused, guard=False)
        found.append((train(model, optimizer, 20, data), optimizer.hyperparameters()["sgd.lr"]))
    assert found[0] == (pytest.approx(found[1][0], rel=1e-12), pytest.approx(found[1][1], rel=1e-12))
    assert found[0][1] != pytest.approx(0.1, rel=1e-3)


def test_a_transform_has_a_name_of_its_own(half: str) -> None:
    with pytest.raises(RecoptError, match="a transform 'half' already"):
        transform("half")(TRANSFORMS["none"])
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(RecoptError, match="should be one of none, .*half"):
        recopt.Optimizer([w], "sgd/sgd", normalize="third")


@estimator("halved")
class Halved(Unroll):
    """An estimator from outside the package: the unroll's gradient, halved."""

    closed: ClassVar[bool] = False

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        signal = super().close(level, window, slots, moved, how)
        signal.grads = None if signal.grads is None else [g / 2 for g in signal.grads]
        return signal


@pytest.mark.parametrize("stack", ["sgd(lr=0.05)/sgd(lr=0.02)", "lstm/sgd(lr=0.02)"])
def test_an_estimator_from_outside(stack: str) -> None:
    def run(**settings: Any) -> list[float]:
        made = engines.engine(engines.Regression(seed=0), stack, {2: {"normalize": "none", "every": 3, **settings}})
        made.run(20)
        made.flush()
        assert isinstance(made.sink, engines.Recorder)
        return made.sink.series(2, "signal_norm")

    whole, half = run(gradient="unroll")[0], run(gradient="halved")[0]
    assert half == pytest.approx(whole / 2, rel=1e-12)
    with pytest.raises(RecoptError, match="There is .*estimator .halved. already"):
        estimator("halved")(Halved)
    with pytest.raises(ValueError, match="direct, auto, unroll, online, forward, implicit, reptile, es, pes, nres"):
        Level(moves="task", by="a", gradient="halve")


def test_an_estimator_says_what_it_cannot_do() -> None:
    @estimator("unwilling")
    class Unwilling(Unroll):
        def refusal(self, graph: Structure, number: int) -> str | None:
            return "not today: take gradient=unroll."

    with pytest.raises(RecoptError, match="Level 2 .*not today"):
        engines.graph("sgd/sgd", {2: {"gradient": "unwilling"}})
