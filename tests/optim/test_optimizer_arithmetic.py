"""Arithmetic at its limits: rules that emit NaN, gradients whose squares overflow, absurd rates above."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, nn

import recopt
from recopt import Column, Hypers, Ops, Params, Rule, State, Strategy, Term, Trial, positive

SILENT = pytest.mark.filterwarnings("ignore:recopt.Optimizer skipped a step")


class Momentum(Rule):
    """A mean of gradients, one of which is NaN."""

    linear: ClassVar[str | None] = "lr"
    lr = positive(0.05)

    def init(self, point: Params) -> State:
        return {"steps": 0, "mean": [torch.zeros_like(p) for p in point]}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        spoilt = ops.mul(grads, math.nan) if state["steps"] >= 0 and self.fails() else grads
        return {"steps": state["steps"] + 1, "mean": ops.lerp(state["mean"], spoilt, 0.5)}

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        return [Term(-hyper["lr"], state["mean"])]

    calls: ClassVar[list[int]] = []

    @classmethod
    def fails(cls) -> bool:
        """True once, at the fifth call."""
        cls.calls.append(1)
        return len(cls.calls) == 5


class PlainMomentum(Strategy):
    """The same by a ``forward``."""

    lr = positive(0.05)

    def init(self, point: Params) -> State:
        return {"mean": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        spoilt = math.nan if Momentum.fails() else 1.0
        mean = [0.5 * m + 0.5 * spoilt * g for m, g in zip(state["mean"], trials[0].grads or [], strict=True)]
        return [-self.lr * m for m in mean], {"mean": mean}


@pytest.mark.parametrize("kind", [Momentum, PlainMomentum])
@pytest.mark.parametrize("below", ["sgd(lr=0.01)", "lstm"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_rule_above_that_emits_nan_once_costs_a_step(kind: Any, below: str, fused: bool) -> None:
    Momentum.calls.clear()
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(5))
    optimizer = recopt.Optimizer([w], [below, kind(), "sgd"], fused=fused, every=1)
    rates = []
    for _ in range(20):
        optimizer.zero_grad()
        (w**2).sum().backward()
        optimizer.step()
        rates.append(list(optimizer.hyperparameters().values()))
    assert optimizer.guards()["level2.skipped"] == 1
    assert optimizer.guards().get("level3.skipped") == 0
    assert all(math.isfinite(x) for row in rates for x in row)
    assert w.isfinite().all()
    steps = [part.strategy for part in optimizer._towers.all[0].state.levels[1].parts]
    assert all(bool(t.isfinite().all()) for t in recopt.contracts.trees.tensors(steps))
    assert below == "lstm" or rates[-1][0] != rates[5][0]  # it goes on


@SILENT
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1e25), (torch.float64, 1e200)])
@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "adam(lr=0.05)/sgd", "rmsprop(lr=0.05)", "schedule-free(lr=0.05)"])
def test_losses_whose_gradients_have_no_finite_square_are_trained_on(
    stack: str, dtype: torch.dtype, factor: float
) -> None:
    ends = []
    for scale in (1.0, factor):
        torch.manual_seed(0)
        w = nn.Parameter(torch.randn(5, dtype=dtype))
        start = w.detach().abs().sum()
        optimizer = recopt.Optimizer([w], stack)
        for _ in range(60):
            optimizer.zero_grad()
            (scale * w.abs().sum()).backward()
            optimizer.step()
        ends.append(float(w.detach().abs().sum() / start))
        assert optimizer.guards()["skipped"] == (scale > 1.0)
    assert max(ends) < 0.2


@SILENT
def test_one_gradient_without_a_finite_square_is_left_out() -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], "adam(lr=0.05)/sgd")
    for step in range(40):
        optimizer.zero_grad()
        ((1e25 if step == 5 else 0.0 if step == 6 else 1.0) * w.abs().sum()).backward()
        optimizer.step()
    assert optimizer.guards()["skipped"] == 1
    assert w.detach().abs().sum() < 0.5


@pytest.mark.parametrize("fused", [True, False])
def test_an_absurd_rate_above_moves_a_rate_by_a_factor_of_e_at_most(fused: bool) -> None:
    torch.manual_seed(0)
    w, seen = nn.Parameter(torch.randn(20)), [1e-3]
    optimizer = recopt.Optimizer([w], "adam/sgd(lr=100)", fused=fused)
    for step in range(60):
        optimizer.zero_grad()
        ((w - 0.1 * torch.randn(20, generator=torch.Generator().manual_seed(step))) ** 2).sum().backward()
        optimizer.step()
        seen.append(optimizer.hyperparameters()["adam.lr"])
    assert all(math.log(b / a) < 1 + 1e-9 for a, b in itertools.pairwise(seen))
    assert optimizer.guards()["level2.bounded"] > 30
    assert w.isfinite().all()


@pytest.mark.parametrize("told", [True, False])
def test_a_warning_says_that_the_gradient_overflows_and_not_that_the_loss_exploded(told: bool) -> None:
    w = nn.Parameter(torch.ones(4))
    optimizer = recopt.Optimizer([w], "sgd(lr=0.01)")
    w.grad = torch.full_like(w, 1e30)
    with pytest.warns(RuntimeWarning, match="skipped a step: the squares of the gradient overflow"):
        optimizer.step(loss=torch.tensor(1.0) if told else None)
    assert torch.equal(w, torch.ones(4))
