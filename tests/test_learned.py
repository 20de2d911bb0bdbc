"""The learned strategies: against a plain reference, central differences, loops over tasks, and by their contract."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from recopt import Params, State, Strategy, Trial, cells
from recopt.blocks import cosine, flatten, log_ratio, lstm_cell, orthogonalize, tanh, unflatten

STRATEGIES = Path(__file__).parent.parent / "strategies"
NAMES = {"lstm": "Lstm", "rnnprop": "Rnnprop", "mlp_rule": "MlpRule", "residual": "Residual", "blend": "Blend"}
SHAPES = [(6, 4), (6,), (3, 6), (3,)]
RNG = torch.Generator()


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few columns as they are here would go through the plain LSTM cell."""
    monkeypatch.setattr(cells, "FEW", 0)
    monkeypatch.setattr(cells, "COLUMNS", 20)


def strategy_class(name: str) -> type[Strategy]:
    spec = importlib.util.spec_from_file_location(f"learned_{name}", STRATEGIES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Strategy] = getattr(module, NAMES[name])
    return found


def make(name: str, **settings: Any) -> Strategy:
    torch.manual_seed(3)
    rule = strategy_class(name)(**settings).double()
    with torch.no_grad():  # Away from read-outs that start at zero, where half of the gradients vanish.
        for p in rule.parameters():
            if p.dim() > 0:
                p.add_(0.05 * torch.randn_like(p))
    return rule


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_grads(point: Params, step: int) -> tuple[Tensor, Params]:
    """A noisy, badly scaled bowl: any rule can be run on it, and its gradients differ from step to step."""
    scales = [10.0**-i for i in range(len(point))]
    loss = torch.stack([s * (p - 1).square().sum() for s, p in zip(scales, point, strict=True)]).sum()
    return loss, [
        2 * s * (p - 1) + 0.01 * s * numbers(*p.shape, seed=100 * step + i)
        for i, (s, p) in enumerate(zip(scales, point, strict=True))
    ]


def start(seed: int = 0) -> Params:
    return [numbers(*shape, seed=10 * seed + i, scale=0.3) for i, shape in enumerate(SHAPES)]


def run(rule: Strategy, steps: int, seed: int = 0, factor: float = 1.0) -> tuple[list[Params], State]:
    """The deltas of ``steps`` steps, gradients held constant (no graph through the optimizee), and the state."""
    point = start(seed)
    state = rule.init(point)
    tape = []
    for step in range(steps):
        loss, grads = loss_grads(point, step)
        deltas, state = rule(point, [Trial(point, factor * loss, [factor * g for g in grads])], state, RNG)
        tape.append(deltas)
        point = [p + d.detach() for p, d in zip(point, deltas, strict=True)]
    return tape, state


def reference_lstm(rule: Any) -> nn.LSTM:
    plain = nn.LSTM(2, rule.hidden, rule.layers).double()
    with torch.no_grad():
        for layer in range(rule.layers):
            weight = rule.weights[layer]
            inputs = weight.shape[1] - rule.hidden
            getattr(plain, f"weight_ih_l{layer}").copy_(weight[:, :inputs])
            getattr(plain, f"weight_hh_l{layer}").copy_(weight[:, inputs:])
            getattr(plain, f"bias_ih_l{layer}").copy_(rule.biases[layer])
            getattr(plain, f"bias_hh_l{layer}").zero_()
    return plain


def test_the_lstm_equals_a_plain_one_on_the_same_weights() -> None:
    rule: Any = make("lstm")
    plain = reference_lstm(rule)
    point = start()
    state, hidden = rule.init(point), None
    for step in range(8):
        grads = [g * 10.0 ** (step - 6) for g in loss_grads(point, step)[1]]
        flat = torch.cat([g.reshape(-1) for g in grads])
        small = flat.abs() < torch.e**-10
        sign = torch.where(small, torch.e**10 * flat, flat.sign())
        log = torch.where(small, torch.full_like(flat, -1.0), flat.abs().log() / 10)
        out, hidden = plain(torch.stack([log, sign], 1)[None], hidden)
        expected = 0.1 * (out[0] @ rule.read_out.T + rule.read_out_bias)[:, 0]
        deltas, state = rule(point, [Trial(point, None, grads)], state, RNG)
        torch.testing.assert_close(flatten(deltas), expected, rtol=1e-12, atol=1e-14)
        point = [p + d.detach() for p, d in zip(point, deltas, strict=True)]


def test_the_lstm_s_gradients_equal_the_plain_one_s() -> None:
    rule: Any = make("lstm")
    plain = reference_lstm(rule)
    features = numbers(5, 7, 2)
    answers = numbers(5, 7, rule.hidden, seed=1)
    (plain(features)[0] * answers).sum().backward()
    state = {"h": [torch.zeros(rule.hidden, 7, dtype=torch.float64)] * 2}
    state["c"] = list(state["h"])
    total = torch.zeros((), dtype=torch.float64)
    for t in range(5):
        x = features[t].T
        for layer in range(2):
            weight, bias = rule.weights[layer], rule.biases[layer]
            x, state["c"][layer] = lstm_cell(x, state["h"][layer], state["c"][layer], weight, bias)
            state["h"][layer] = x
        total = total + (x.T * answers[t]).sum()
    total.backward()
    for layer in range(2):
        both = [getattr(plain, f"weight_{kind}_l{layer}").grad for kind in ("ih", "hh")]
        torch.testing.assert_close(rule.weights[layer].grad, torch.cat(both, 1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(rule.biases[layer].grad, getattr(plain, f"bias_ih_l{layer}").grad)


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


@pytest.mark.parametrize("name", ["rnnprop", "mlp_rule", "residual", "blend"])
@pytest.mark.parametrize("exponent", [-6, 6])
def test_the_scale_free_rules_do_not_see_the_loss_multiplied(name: str, exponent: int) -> None:
    settings = {"eps": 1e-16} if name in ("rnnprop", "residual") else {}
    rule = make(name, **settings)
    plain, other = run(rule, 4)[0], run(rule, 4, factor=10.0**exponent)[0]
    for a, b in zip(plain, other, strict=True):
        torch.testing.assert_close(flatten(a), flatten(b), rtol=1e-5, atol=1e-8)


def first_step(factor: float = 1.0, silent: bool = False, **settings: Any) -> Params:
    """The first deltas of ``mlp-rule``, whose network says nothing if ``silent``."""
    rule: Any = make("mlp_rule", **settings)
    if silent:
        with torch.no_grad():
            for p in (*rule.leave.parameters(), *rule.outer.parameters()):
                p.zero_()
    return run(rule, 1, factor=factor)[0][0]


def test_the_pieces_of_the_mlp_rule_can_be_taken_away() -> None:
    """Adam's first step is the gradient's sign, whose root mean square is 1."""
    signs = [g.sign() for g in loss_grads(start(), 0)[1]]
    plain: dict[str, Any] = {"scale": 0.02, "silent": True}
    for settings, size in ({}, 0.02), ({"normalized": False}, 0.02 * 0.1), ({"nominal": 0.0}, 0.0):
        found = first_step(**plain, **settings)
        torch.testing.assert_close(flatten(found), -size * flatten(signs), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(flatten(first_step()), flatten(first_step(factor=10.0)), rtol=1e-6, atol=1e-9)
    for inputs in ("log_sign", "none"):
        assert not torch.allclose(flatten(first_step(inputs=inputs)), flatten(first_step(10.0, inputs=inputs)))


def test_log_and_sign_are_the_lstms() -> None:
    rule: Any = make("mlp_rule", inputs="log_sign")
    lstm: Any = make("lstm")
    mean = numbers(4, 9) * 10.0 ** torch.arange(-8, 1).double()
    expected = torch.stack([lstm.inputs(row) for row in mean], 1).reshape(8, 9)
    torch.testing.assert_close(rule._entering(mean, mean), expected)


def test_rnnprop_moves_no_coordinate_further_than_its_scale() -> None:
    rule = make("rnnprop", scale=0.03)
    with torch.no_grad():
        rule.read_out.mul_(1e3)  # type: ignore[operator, union-attr]
    moved = torch.stack([flatten(d).abs().max() for d in run(rule, 5)[0]])
    assert moved.max() <= 0.03 and moved.max() > 0.029


def test_the_residual_rule_starts_as_adam() -> None:
    torch.manual_seed(0)
    rule = strategy_class("residual")(lr=0.05).double()
    point = start()
    leaves = [p.clone().requires_grad_() for p in point]
    adam = torch.optim.Adam(leaves, lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    for step, deltas in enumerate(run(rule, 6)[0]):
        for leaf, grad in zip(leaves, loss_grads([q.detach() for q in leaves], step)[1], strict=True):
            leaf.grad = grad
        adam.step()
        point = [p + d for p, d in zip(point, deltas, strict=True)]
        torch.testing.assert_close(flatten(point), flatten(leaves), rtol=1e-9, atol=1e-12)


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


def test_blocks() -> None:
    parts = [numbers(2, 3), numbers(4), numbers()]
    assert all(torch.equal(a, b) for a, b in zip(unflatten(flatten(parts), parts), parts, strict=True))
    torch.testing.assert_close(tanh(parts[0]), torch.tanh(parts[0]))
    for shape in ((5, 9), (9, 5), (2, 4, 4)):
        values = torch.linalg.svdvals(orthogonalize(numbers(*shape)))
        assert values.min() > 0.5 and values.max() < 1.3
    assert cosine(parts[1], torch.zeros(4, dtype=torch.float64)) == 0
    assert log_ratio(torch.zeros(()), torch.zeros(())) == 0


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
