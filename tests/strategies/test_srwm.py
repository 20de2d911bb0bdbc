"""The self-referential weight matrix against its equations, and what it can do that a fixed matrix cannot."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recopt import Trial
from recopt.testing import assert_conforms

from ..rules import RNG, loss_grads, make, numbers, run, start, strategy_class


def by_equations(rule: Any, grads: list[Tensor]) -> list[Tensor]:
    """The deltas of one coordinate whose gradients are ``grads``, by equations 5 to 8 of the paper, one by one."""
    w, d, deltas = rule.matrix.detach().clone(), rule.units, []
    for g in grads:
        log = max(math.log(max(abs(float(g)), 1e-300)) / 10, -1.0)
        sign = min(max(math.exp(10) * float(g), -1.0), 1.0)
        x = rule.enter @ torch.tensor([log, sign], dtype=torch.float64) + rule.enter_bias
        out = w @ torch.softmax(x, 0)
        y, k, q, beta = out[:d], torch.softmax(out[d : 2 * d], 0), torch.softmax(out[2 * d : 3 * d], 0), out[3 * d]
        deltas.append((rule.scale * (rule.read_out @ y + rule.read_out_bias)).detach())
        w = w + torch.sigmoid(beta) * torch.outer(w @ q - w @ k, k)
    return deltas


def test_every_coordinate_goes_by_the_equations_of_the_paper() -> None:
    rule = make("srwm", units=5)
    point, state = start(), rule.init(start())
    told, found = [], []
    for step in range(6):
        loss, grads = loss_grads(point, step)
        grads[0].view(-1)[0] = 0.0  # of which there is no logarithm
        deltas, state = rule(point, [Trial(point, loss, grads)], state, RNG)
        told.append(torch.cat([g.reshape(-1) for g in grads]))
        found.append(torch.cat([d.detach().reshape(-1) for d in deltas]))
        point = [p + 0.1 * numbers(*p.shape, seed=step) for p in point]
    for n in (0, 1, 17, 50):
        wanted = torch.stack(by_equations(rule, [g[n] for g in told]))
        torch.testing.assert_close(torch.stack(found)[:, n], wanted, rtol=1e-12, atol=1e-15)


def test_the_same_gradient_is_answered_otherwise_once_the_matrix_has_rewritten_itself() -> None:
    rule, point = make("srwm"), [numbers(3)]
    state = first = rule.init(point)
    told = [Trial(point, torch.zeros(()), [numbers(3, seed=1)])]
    deltas = []
    for _ in range(3):
        delta, state = rule(point, told, state, RNG)
        deltas.append(delta[0])
    assert not first["change"].any() and bool(state["change"].any())
    assert min(float((a - b).abs().min().detach()) for a, b in zip(deltas[1:], deltas, strict=False)) > 1e-6


def test_it_stays_finite_over_many_steps() -> None:
    """The delta rule writes no more than the difference of two of its own answers."""
    tape, state = run(make("srwm"), 200)
    assert all(bool(d.isfinite().all()) for deltas in tape for d in deltas)
    assert float(state["change"].detach().abs().max()) < 3


def test_it_conforms() -> None:
    assert_conforms(strategy_class("srwm"))
