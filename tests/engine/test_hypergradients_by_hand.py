"""Hypergradients against windows that are written out, and a closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts.settings import positive, real
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Batch, Split, Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level

from .. import engines
from ..differences import EXACT, engine, signal_of


def by_hand(steps: int, second_order: bool) -> list[Tensor]:
    """The meta-gradient of one window written out, with gradients detached or not."""
    made = engine("rule/rule", {2: {"every": steps, "gradient": "unroll", "second_order": second_order}})
    mover: Any = made.tower.carriers.movers[0]
    phi = [p.detach().clone().requires_grad_() for p in made.state.slots["rule"].params]
    theta: list[Tensor] = [p.detach().clone() for p in made.state.slots["task"].params]
    state = mover.strategy.init(theta)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(steps + 1):
        batch = made.evaluator.batch(made.state.slots["task"], t, "train")
        point = theta if second_order and t else [p.detach().requires_grad_() for p in theta]
        loss = engines.loss_at(made, point, batch)
        grads = torch.autograd.grad(loss, point, create_graph=second_order)
        if t:
            total = total + engines.loss_at(made, theta, batch) / steps
        if t < steps:
            if not second_order or t == 0:
                grads = tuple(g.detach() for g in grads)
            module = mover.loaded.at(phi)
            delta, state = module(theta, [Trial(theta, loss, list(grads))], state, None)
            theta = [p + d for p, d in zip(theta, delta, strict=True)]
    return list(torch.autograd.grad(total, phi))


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_dropped_second_derivatives_equal_backpropagation_with_detached_gradients(steps: int) -> None:
    made = engine("rule/rule", {2: {"every": steps, "gradient": "unroll"}})
    signal = signal_of(made, 2)
    assert signal.grads == pytest.approx([float(g) for g in by_hand(steps, False)], rel=1e-13)


def test_exact_equals_backpropagation_by_hand() -> None:
    made = engine("rule/rule", {2: {**EXACT, "every": 6}})
    signal = signal_of(made, 2)
    assert signal.grads is not None
    for ours, theirs in zip(signal.grads, by_hand(6, True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)


class Parabola(Task):
    """½ a x², a = 2, x₀ = 1."""

    def model(self) -> nn.Module:
        m = nn.Linear(1, 1, bias=False)
        nn.init.ones_(m.weight)
        return m

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch) ** 2).sum()


class Plain(Strategy):
    """x ← x − lr g, with lr on the line."""

    lr = real(0.1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        return [-self.lr * g for g in trials[0].grads], state


def test_closed_form_of_gradient_descent_on_a_parabola() -> None:
    # x_t = (1 − a lr)^t, f = ½ a x², so d f_T / d lr = −a² T (1 − a lr)^(2T − 1) with a = 2.
    steps, a, lr = 9, 2.0, 0.1
    levels = [
        Level(moves="task", by="p", guard=False),
        Level(moves="p", by="q", every=steps, objective="last", normalize="none", guard=False, **EXACT),
    ]
    made = Engine(Parabola(), Graph(levels, {"p": Plain(), "q": Plain()}), dtype=torch.float64)
    signal = signal_of(made, 2)
    assert signal.grads is not None
    expected = -(a**2) * steps * (1 - a * lr) ** (2 * steps - 1)
    assert float(signal.grads[0]) == pytest.approx(expected, rel=1e-12)


class Deaf(Strategy):
    """A rule that detaches its learning rate."""

    lr = positive(0.1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        one = self.lr.detach() + 0 * point[0].sum()
        return [-one * g for g in trials[0].grads], state


def test_a_disconnected_level_is_refused_and_named() -> None:
    levels = [Level(moves="task", by="p"), Level(moves="p", by="q", every=2, gradient="unroll", second_order=True)]
    made = Engine(Parabola(), Graph(levels, {"p": Deaf(), "q": Plain()}), dtype=torch.float64)
    with pytest.raises(RecoptError, match="Level 2 gets no hypergradient.*lr"):
        made.run(20)
