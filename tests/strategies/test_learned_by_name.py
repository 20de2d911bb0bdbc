"""Each learned strategy by itself: the LSTM a plain one, the MLP rule its pieces, the residual one Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recopt import Params, Trial
from recopt.toolkit.blocks import flatten, lstm_cell

from ..rules import RNG, loss_grads, make, numbers, run, start, strategy_class, with_the_fused_cell


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_the_fused_cell(monkeypatch)


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
