"""The blend: where its secants lead, and its way home."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recopt import Trial
from recopt.toolkit.blocks import flatten

from ..rules import RNG, loss_grads, make, numbers, start


def test_blend_s_secant_move_solves_a_quadratic_once_it_has_seen_every_direction() -> None:
    rule: Any = make("blend", memory=4, ridge=1e-14)
    hessian = numbers(4, 4) @ numbers(4, 4).T + torch.eye(4)
    optimum, points = numbers(4, seed=5), numbers(6, 4, seed=9)
    grads = (points - optimum) @ hessian
    s, y = points[1:5] - points[:4], grads[1:5] - grads[:4]
    loss = 0.5 * (points[4] - optimum) @ grads[4]
    jump, residual, _ = rule.secant(grads[4], s[-1], y[-1], s, y, loss)
    torch.testing.assert_close(points[4] + jump, optimum, rtol=1e-6, atol=1e-7)
    assert residual.norm() < 1e-8 * grads[4].norm()


def test_blend_without_a_secant_takes_polyak_s_step_and_never_meets_a_singular_matrix() -> None:
    rule: Any = make("blend", memory=4, ridge=1e-14)
    g, none, loss = numbers(4), torch.zeros(4, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    jump, rest, probe = rule.secant(g, none, none, none.expand(4, 4), none.expand(4, 4), loss)
    assert not jump.any() and torch.equal(rest, g)
    # Along it, a line falls from the loss to zero.
    torch.testing.assert_close(loss + g @ probe, torch.zeros_like(loss))
    same = numbers(4, seed=1).expand(4, 4)
    assert all(part.isfinite().all() for part in rule.secant(g, same[0], same[0], same, same, loss))
    assert all(part.isfinite().all() for part in rule.secant(g, same[0], same[0], same, same, -loss))


def test_blend_goes_back_to_the_best_point_where_the_loss_has_exploded() -> None:
    rule = make("blend")
    point = start()
    state = rule.init(point)
    _, grads = loss_grads(point, 0)
    home = flatten(point)
    for loss in (1.0, 1.5, float("nan"), 1.2, 3.0, 1.1):
        trial = Trial(point, torch.tensor(loss, dtype=torch.float64), grads)
        deltas, state = rule(point, [trial], state, RNG)
        moved = flatten(point) + flatten(deltas)
        assert torch.isfinite(moved).all()
        assert torch.allclose(moved, home) == (not loss < 2)
        point = [p + 1 for p in point]
    assert state["brake"] == pytest.approx(0.65 * 0.65)
