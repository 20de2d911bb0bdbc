"""Properties of all learned strategies: exact derivatives, tasks side by side, and the contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from recopt import Params, Trial
from recopt.toolkit.blocks import flatten

from ..rules import NAMES, RNG, SHAPES, loss_grads, make, numbers, run, start, with_the_fused_cell


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_the_fused_cell(monkeypatch)


PIECES: list[dict[str, Any]] = [{"inputs": "log_sign"}, {"inputs": "none", "normalized": False}, {"nominal": 0.0}]
"""Settings of ``mlp-rule`` without some of its pieces."""


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in NAMES), *(("mlp_rule", x) for x in PIECES)])
def test_gradients_equal_central_differences(name: str, settings: dict[str, Any]) -> None:
    """Of the recorded updates with fixed cotangents, along a fixed path: what a level above asks for."""
    rule = make(name, **settings)
    path: list[tuple[Params, Tensor, Params]] = []
    point = start()
    for step in range(5):
        path.append((point, *loss_grads(point, step)))
        point = [p + 0.05 * numbers(*p.shape, seed=step + 50) for p in point]
    cotangents = [[numbers(*shape, seed=900 + 10 * t + i) for i, shape in enumerate(SHAPES)] for t in range(5)]
    weights = {n: p.detach().clone() for n, p in rule.named_parameters()}

    def scored(values: dict[str, Tensor]) -> Tensor:
        state, total = rule.init(path[0][0]), torch.zeros((), dtype=torch.float64)
        for (at, loss, grads), cotangent in zip(path, cotangents, strict=True):
            deltas, state = functional_call(rule, values, (at, [Trial(at, loss, grads)], state, RNG))
            total = total + (flatten(deltas) * flatten(cotangent)).sum()
        return total

    leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
    exact = torch.autograd.grad(scored(leaves), list(leaves.values()))
    size, step = torch.stack([e.norm() for e in exact]).norm(), 1e-6
    for seed in range(3):
        along = {n: numbers(*w.shape, seed=seed * 31 + i) for i, (n, w) in enumerate(weights.items())}
        ahead = scored({n: w + step * along[n] for n, w in weights.items()})
        behind = scored({n: w - step * along[n] for n, w in weights.items()})
        found = torch.stack([(e * a).sum() for e, a in zip(exact, along.values(), strict=True)]).sum()
        assert abs((ahead - behind) / (2 * step) - found) < 1e-7 * size
    for (key, _), e in zip(weights.items(), exact, strict=True):
        assert e.abs().sum() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_mapped_over_tasks_equals_looped(name: str) -> None:
    rule = make(name)
    looped = [run(rule, 4, seed)[0] for seed in range(3)]
    point = [torch.stack(ps) for ps in zip(*(start(seed) for seed in range(3)), strict=True)]
    states = [tree_flatten(rule.init(start(seed))) for seed in range(3)]
    spec, leaves = states[0][1], [torch.stack(ls) for ls in zip(*(s[0] for s in states), strict=True)]

    def one(at: Params, loss: Tensor, grads: Params, held: list[Tensor]) -> tuple[Params, list[Tensor]]:
        deltas, after = rule(at, [Trial(at, loss, grads)], tree_unflatten(held, spec), RNG)
        assert tree_flatten(after)[1] == spec
        return deltas, tree_flatten(after)[0]

    for step in range(4):
        scored = [loss_grads([p[k] for p in point], step) for k in range(3)]
        loss = torch.stack([f for f, _ in scored])
        grads = [torch.stack(gs) for gs in zip(*(g for _, g in scored), strict=True)]
        deltas, leaves = vmap(one)(point, loss, grads, leaves)
        for k in range(3):
            expected = flatten(looped[k][step])
            torch.testing.assert_close(flatten([d[k] for d in deltas]), expected, rtol=1e-7, atol=1e-10)
        point = [p + d.detach() for p, d in zip(point, deltas, strict=True)]


def plain_kinds(tree: Any) -> bool:
    if isinstance(tree, dict):
        return type(tree) is dict and all(isinstance(k, str) and plain_kinds(v) for k, v in tree.items())
    if isinstance(tree, list):
        return all(plain_kinds(v) for v in tree)
    return isinstance(tree, Tensor | int | float)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_plain_and_keeps_its_shapes_and_the_arguments_are_left_alone(name: str) -> None:
    rule = make(name)
    point = start()
    state = rule.init(point)
    kept = [t.clone() for t in tree_flatten(state)[0]]
    loss, grads = loss_grads(point, 0)
    before = flatten([*point, *grads]).clone()
    deltas, after = rule(point, [Trial(point, loss, grads)], state, RNG)
    assert plain_kinds(state) and plain_kinds(after)
    assert [t.shape for t in tree_flatten(after)[0]] == [t.shape for t in kept]
    assert [d.shape for d in deltas] == [p.shape for p in point]
    assert torch.equal(flatten([*point, *grads]), before)
    assert all(torch.equal(a, b) for a, b in zip(tree_flatten(state)[0], kept, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_is_finite_where_nothing_moves(name: str) -> None:
    """A coordinate, and a whole tensor, whose gradient is always zero: the values and the derivatives stay finite."""
    rule = make(name)
    point = start()
    state = rule.init(point)
    total = torch.zeros((), dtype=torch.float64)
    for step in range(3):
        loss, grads = loss_grads(point, step)
        grads = [torch.zeros_like(grads[0]), grads[1] * (torch.arange(6) > 2), torch.zeros_like(grads[2]), grads[3]]
        deltas, state = rule(point, [Trial(point, loss, grads)], state, RNG)
        total = total + flatten(deltas).sum()
    assert torch.isfinite(total)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, list(rule.parameters())))


@pytest.mark.parametrize("name", ["rnnprop", "mlp_rule", "hierarchical", "residual", "blend"])
@pytest.mark.parametrize("exponent", [-6, 6])
def test_the_scale_free_rules_do_not_see_the_loss_multiplied(name: str, exponent: int) -> None:
    settings = {"eps": 1e-16} if name in ("rnnprop", "residual") else {}
    rule = make(name, **settings)
    plain, other = run(rule, 4)[0], run(rule, 4, factor=10.0**exponent)[0]
    for a, b in zip(plain, other, strict=True):
        torch.testing.assert_close(flatten(a), flatten(b), rtol=1e-5, atol=1e-8)
