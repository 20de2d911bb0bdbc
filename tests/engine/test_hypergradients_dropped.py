"""Hypergradients with second derivatives dropped, of the shipped rules, against windows that are written out.

The same sums come about in three ways: by closed derivatives of one update, by those of a window of several, and by a
tape; which of them it is belongs to each case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recopt.contracts import trees
from recopt.contracts.strategy import Params, Strategy, Trial
from recopt.engine.engine import Engine
from recopt.levels.objective import score
from recopt.levels.state import Signal
from recopt.rules.tensors import Loaded

from .. import engines
from ..differences import signal_of

Look = Callable[[int, Params], tuple[Tensor, Params]]
"""The loss and gradient after so many updates, at a point."""
RAW = {"guard": False, "normalize": "none"}
STILL = "sgd@still(lr=1e-30)"


def written_out(
    rule: Strategy, start: Params, told: Look, scored: Look, settings: dict[str, Any], windows: int,
    factor: Callable[[int], float] = lambda age: 1.0,
) -> Params:  # fmt: skip
    """The derivative of a window's score by a rule's parameters, with the gradients that it was told held fixed."""
    rule.double()
    values, point, state = [p.detach().clone() for p in rule.parameters()], start, rule.init(start)
    loaded, count, before, found = Loaded(rule), 0, told(0, start)[0], list[Tensor | None]()
    for _ in range(windows):
        leaves = [v.clone().requires_grad_() for v in values]
        point, state = trees.detach(point), trees.detach(state)
        losses, products = [], []
        for _ in range(settings["every"]):
            loss, grads = told(count, trees.detach(point))
            delta, state = loaded.at(leaves)(point, [Trial(point, loss, grads)], state, None)
            point = [p + factor(count) * d for p, d in zip(point, delta, strict=True)]
            count += 1
            loss, grads = scored(count, trees.detach(point))
            losses.append(loss)
            products.append(sum((p * g).sum() for p, g in zip(point, grads, strict=True)))
        _, weights = score(settings.get("objective", "mean"), losses, before)
        total = sum(w * p for w, p in zip(weights[1:], products, strict=True))
        found = list(torch.autograd.grad(total, leaves, allow_unused=True))  # type: ignore[arg-type]
        before = losses[-1]
    return [torch.zeros(()).double() if g is None else g for g in found]


def on_task(made: Engine, split: Any) -> Look:
    slot = made.family.fresh(0)

    def look(count: int, point: Params) -> tuple[Tensor, Params]:
        leaves = [p.clone().requires_grad_() for p in point]
        loss = engines.loss_at(made, leaves, made.evaluator.batch(slot, count, split))
        return loss.detach(), list(torch.autograd.grad(loss, leaves))

    return look


def compare(made: Engine, signal: Signal, number: int, expected: Params) -> None:
    index = made.tower.slots.index(made.state, number - 1)
    assert signal.grads is not None
    wanted = [float(expected[i]) for i in index]
    assert any(wanted)
    assert signal.grads == pytest.approx(wanted, rel=1e-9, abs=1e-10 * max(map(abs, wanted)))


CLOSED, TAPED = True, False
RULES: dict[str, tuple[str, str, bool, bool]] = {
    "sgd": ("sgd(lr=0.05)", "", CLOSED, CLOSED),
    "momentum, lr": ("sgd(lr=0.05, momentum=0.9)", "[lr]", CLOSED, CLOSED),
    "momentum": ("sgd(lr=0.05, momentum=0.9)", "", CLOSED, TAPED),
    "nesterov, lr": ("sgd(lr=0.05, momentum=0.9, nesterov=true)", "[lr]", CLOSED, CLOSED),
    "nesterov": ("sgd(lr=0.05, momentum=0.9, nesterov=true)", "", CLOSED, TAPED),
    "sgd, weight decay, lr": ("sgd(lr=0.05, momentum=0.5, weight_decay=0.3)", "[lr]", CLOSED, TAPED),
    "sgd, weight decay": ("sgd(lr=0.05, momentum=0.5, weight_decay=0.3)", "", CLOSED, TAPED),
    "adam, lr": ("adam(lr=0.02)", "[lr]", CLOSED, CLOSED),
    "adam": ("adam(lr=0.02, beta1=0.8, beta2=0.9)", "", CLOSED, TAPED),
    "adam, decoupled decay, lr": ("adam(lr=0.02, weight_decay=0.5)", "[lr]", CLOSED, TAPED),
    "adam, decoupled decay": ("adam(lr=0.02, weight_decay=0.5)", "", CLOSED, TAPED),
    "adam, penalty, lr": ("adam(lr=0.02, weight_decay=0.5, decoupled_weight_decay=false)", "[lr]", CLOSED, TAPED),
    "adam, penalty": ("adam(lr=0.02, weight_decay=0.5, decoupled_weight_decay=false)", "", CLOSED, TAPED),
    "rmsprop, lr": ("rmsprop(lr=0.02, momentum=0.5, centered=true)", "[lr]", CLOSED, CLOSED),
    "rmsprop": ("rmsprop(lr=0.02, momentum=0.5, centered=true)", "", CLOSED, TAPED),
    "adagrad, lr": ("adagrad(lr=0.05, lr_decay=0.1)", "[lr]", CLOSED, CLOSED),
    "adagrad": ("adagrad(lr=0.05, lr_decay=0.1)", "", CLOSED, TAPED),
    "kesten": ("kesten(lr=0.05)", "", CLOSED, CLOSED),
}  # fmt: skip
OBJECTIVES: dict[str, dict[str, Any]] = {
    "mean": {}, "sum": {"objective": "sum"}, "last": {"objective": "last"}, "improvement": {"objective": "improvement"},
    "held-out": {"on": "valid"},
}  # fmt: skip


def level_2(
    rule: str, above: str, settings: dict[str, Any], windows: int, first: dict[str, Any] | None = None
) -> Engine:
    """Compare the hypergradient of a level over ``rule``; the engine that gave it."""
    settings = {"gradient": "unroll", **settings}
    stack = {0: RAW, 1: first or {}, 2: settings}
    made, beside = (engines.engine(engines.Regression(seed=2), f"{rule}/{STILL}{above}", stack) for _ in range(2))
    told, scored = on_task(beside, "train"), on_task(beside, settings.get("on", "train"))
    expected = written_out(beside.graph.slots[beside.levels[0].by], engines.params(beside), told, scored, settings,
                           windows, beside.levels[0].factor)  # fmt: skip
    compare(made, signal_of(made, 2, windows=windows), 2, expected)
    return made


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("name", RULES)
def test_shipped_rules(name: str, every: int, windows: int) -> None:
    rule, above, one, several = RULES[name]
    if name.startswith("adam") and every == windows == 1:
        windows = 2  # Adam's first update does not depend on its betas.
    made = level_2(rule, above, {"every": every}, windows)
    assert made.tower.carriers.closed[1] == (one if every == 1 else several)
    assert made.tower.carriers.lean[1] == (every == 1)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("rule", ["adam, lr", "adam", "sgd, weight decay", "sgd, weight decay, lr"])
def test_objectives(rule: str, every: int, name: str) -> None:
    stack, above, one, several = RULES[rule]
    made = level_2(stack, above, {"every": every, **OBJECTIVES[name]}, 2)
    assert made.tower.carriers.closed[1] == (one if every == 1 else several)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("rule", ["sgd", "nesterov, lr", "adam", "adam, lr", "adam, decoupled decay, lr"])
def test_under_a_schedule(rule: str, every: int) -> None:
    stack, above, *_ = RULES[rule]
    level_2(stack, above, {"every": every}, 2, {"schedule": "cosine", "horizon": 12})


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("rule", ["adam(lr=0.02)", "sgd(lr=0.05, momentum=0.5, weight_decay=0.3)"])
@pytest.mark.parametrize("above", ["", "[lr]"])
def test_of_one_strategy_with_two_groups(rule: str, every: int, above: str) -> None:
    name = rule.partition("(")[0]
    settings = {"every": every, "gradient": "unroll"}
    stack = f"{rule.replace('(', '@s(', 1)}[0.*]+{name}@s[2.*]/{STILL}{above}"
    made, beside = (engines.engine(engines.Regression(seed=2), stack, {0: RAW, 3: settings}) for _ in range(2))
    look = on_task(beside, "train")
    expected = written_out(beside.graph.slots["s"], engines.params(beside), look, look, settings, 2)
    compare(made, signal_of(made, 3, windows=2), 3, expected)


def test_windows_of_two_lengths_over_one_strategy() -> None:
    settings = {2: {"gradient": "unroll", "every": 3}, 3: {"gradient": "unroll", "every": 3, "objective": "last"}}
    stack = f"adam(lr=0.02)/{STILL}[lr]+sgd@b(lr=1e-30)[beta*]"
    for every in (3, 6):
        settings[3]["every"] = every
        beside = engines.engine(engines.Regression(seed=2), stack, {0: RAW, **settings})
        look = on_task(beside, "train")
        for number in (2, 3):
            made = engines.engine(engines.Regression(seed=2), stack, {0: RAW, **settings})
            signal = signal_of(made, number)
            expected = written_out(beside.graph.slots["adam"], engines.params(beside), look, look, settings[number], 1)
            compare(made, signal, number, expected)


UPPER: dict[str, tuple[str, str, bool, bool]] = {
    "sgd": ("sgd(lr=0.01)", "", CLOSED, CLOSED),
    "momentum": ("sgd(lr=0.01, momentum=0.5)", "", CLOSED, TAPED),
    "momentum, lr": ("sgd(lr=0.01, momentum=0.5)", "[lr]", CLOSED, CLOSED),
    "weight decay, lr": ("sgd(lr=0.01, weight_decay=0.1)", "[lr]", CLOSED, TAPED),
    "weight decay": ("sgd(lr=0.01, weight_decay=0.1)", "", CLOSED, TAPED),
    "adam": ("adam(lr=0.01)", "", CLOSED, TAPED),
    "adam, lr": ("adam(lr=0.01)", "[lr]", CLOSED, CLOSED),
    "adam, decoupled decay": ("adam(lr=0.01, weight_decay=0.1)", "", CLOSED, TAPED),
    "hypergradient": ("hypergradient(kappa=0.05)", "", CLOSED, CLOSED),
}  # fmt: skip


@pytest.mark.parametrize("name", UPPER)
@pytest.mark.parametrize("below", [("adam(lr=0.02)", "", 1), ("adam(lr=0.02)", "[lr]", 3), ("adam(lr=0.02)", "", 3)])
@pytest.mark.parametrize("every", [1, 4])
def test_level_3(name: str, below: tuple[str, str, int], every: int) -> None:
    rule, above, one, several = UPPER[name]
    rule = rule.replace("(", "@middle(", 1) + below[1]
    settings = {
        0: RAW,
        2: {"gradient": "unroll", "every": below[2]},
        3: {"gradient": "unroll", "every": every, "objective": "sum"},
    }  # fmt: skip
    made = engines.engine(engines.Regression(seed=2), f"{below[0]}/{rule}/{STILL}{above}", settings)
    seen: list[Signal] = []
    deliver = made.tower.up._deliver

    def spy(state: Any, number: int, signal: Signal | None) -> None:
        if number == 1 and signal is not None:
            seen.append(signal)
        deliver(state, number, signal)

    made.tower.up._deliver = spy  # type: ignore[method-assign]
    moved = made.tower.slots.index(made.state, 1)
    start = [made.state.slots["adam"].params[i] for i in moved]
    signal = signal_of(made, 3, windows=2)

    def told(count: int, point: Params) -> tuple[Tensor, Params]:
        found = seen[count]
        assert found.grads is not None
        return torch.as_tensor(found.loss), [torch.tensor(g, dtype=torch.float64) for g in found.grads]

    expected = written_out(made.graph.slots["middle"], start, told, told, settings[3], 2)
    compare(made, signal, 3, expected)
    assert made.tower.carriers.closed[2] == (one if every == 1 else several)
