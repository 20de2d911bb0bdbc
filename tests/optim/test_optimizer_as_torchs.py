"""What PyTorch asks of its own optimizers (TestOptimRenewed), asked of eleven stacks.

Exceptions from it, with their reasons, are listed in docs/compatibility.md.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedules
from torch.optim.optimizer import register_optimizer_step_pre_hook

import recopt

from ..torchs import UNREAD, drawn, every_stack, problem, run, same

# steps


@every_stack
def test_maximize_is_descending_on_the_negative_and_may_be_written_later(stack: str | None) -> None:
    ends = []
    for maximize in (False, True):
        params, loss = problem()
        optimizer = recopt.Optimizer(params, stack)
        optimizer.param_groups[0]["maximize"] = maximize
        for _ in range(5):
            loss()
            for p in params:
                p.grad = -p.grad if maximize and p.grad is not None else p.grad
            optimizer.step()
        ends.append([p.detach() for p in params])
    assert same(*ends)


@every_stack
def test_nothing_moves_without_gradients_and_with_zeros(stack: str | None) -> None:
    params, loss = problem()
    optimizer = recopt.Optimizer(params, stack)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert same(before, [p.detach() for p in params])
    loss()
    for p in params:
        p.grad = torch.zeros_like(p)
    if stack is None or "weight_decay" not in stack:
        optimizer.step()
        assert same(before, [p.detach() for p in params])


@every_stack
def test_complex_is_two_real_ones_and_low_precision_is_taken(stack: str | None) -> None:
    ends = []
    for real in (False, True):
        whole = torch.view_as_complex(drawn(4, 2))
        p = nn.Parameter(torch.view_as_real(whole) if real else whole)
        optimizer = recopt.Optimizer([p], stack)
        for seed in range(3):
            grad = drawn(4, 2, seed=seed)
            p.grad = grad if real else torch.view_as_complex(grad)
            optimizer.step()
        entry = optimizer.state_dict()["state"].get(0, {})
        assert all(t.shape == p.shape for t in entry.values() if t.ndim)
        ends.append([torch.view_as_real(p.detach()) if not real else p.detach()])
    assert same(*ends)
    for dtype in (torch.bfloat16, torch.float16):
        params = [nn.Parameter(p.detach().to(dtype)) for p in problem()[0]]
        optimizer = recopt.Optimizer(params, stack)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert all(p.isfinite().all() for p in params)


@every_stack
def test_closures_hooks_and_print(stack: str | None) -> None:
    (params, loss), order = problem(), list[str]()
    optimizer = recopt.Optimizer(params, stack)
    optimizer.register_step_pre_hook(lambda *_: order.append("before"))
    optimizer.register_step_post_hook(lambda *_: order.append("after"))
    hook = register_optimizer_step_pre_hook(lambda *_: order.append("any"))
    found = optimizer.step(loss)
    hook.remove()
    assert isinstance(found, Tensor) and order == ["any", "before", "after"]
    assert optimizer.state and set(optimizer.state) <= set(params)
    text = repr(optimizer)
    assert optimizer.describe()[0] in text and "maximize: False" in text
    for name, value in optimizer.hyperparameters().items():
        assert f"{name.rpartition('.')[2]}={value:.4g}" in text


# groups


@UNREAD
@every_stack
def test_groups_have_rates_of_their_own_and_keep_what_others_put_there(stack: str | None) -> None:
    params, loss = problem()
    has_rate = stack not in ("prodigy",)
    own = {"lr": 0.02} if has_rate else {}
    groups = [{"params": params[:1], "rho": 0.05, "lr_scale": 2.0}, {"params": params[1:], **own}, {"params": []}]
    optimizer = recopt.Optimizer(groups, stack)
    found = optimizer.param_groups
    assert (found[0]["rho"], found[0]["lr_scale"]) == (0.05, 2.0)
    assert found[1]["lr"] == (0.02 if has_rate else 1.0) and "rho" not in found[1]
    run(optimizer, loss, 3)
    again = recopt.Optimizer([{"params": params[:1]}, {"params": params[1:]}, {"params": []}], stack)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["rho"] == 0.05 and again.hyperparameters() == optimizer.hyperparameters()


@every_stack
def test_rates_are_numbers_of_any_kind_and_read_back_as_given(stack: str | None) -> None:
    stack = {"prodigy": "prodigy/sgd", None: "paced"}.get(stack, stack)
    ends, alike = (
        [],
        (0.01, torch.tensor(0.01, dtype=torch.float64), np.float64(0.01), torch.tensor([[0.01]], dtype=torch.float64)),
    )
    for rate in alike:
        params, loss = problem()
        optimizer = recopt.Optimizer(params, stack, lr=rate)
        assert float(optimizer.param_groups[0]["lr"]) == 0.01
        assert next(v for k, v in optimizer.hyperparameters().items() if k.endswith(".lr")) == 0.01
        plan = schedules.ExponentialLR(optimizer, gamma=0.5)
        run(optimizer, loss, 1)
        plan.step()
        assert float(optimizer.param_groups[0]["lr"]) == 0.005
        ends.append(run(optimizer, loss, 2))
    assert all(same(ends[0], end) for end in ends[1:])


@every_stack
def test_at_a_rate_of_zero_nothing_moves_until_it_is_set(stack: str | None) -> None:
    params, loss = problem()
    optimizer = recopt.Optimizer(params, stack, lr=0.0)
    before = [p.detach().clone() for p in params]
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert same(run(optimizer, loss, 2), before)
    if stack == "sgd":
        optimizer.param_groups[0]["lr"] = 0.1
        loss()
        expected = [p - 0.1 * p.grad for p in params if p.grad is not None]
        assert all(torch.allclose(a, b, rtol=1e-14) for a, b in zip(run(optimizer, loss, 1), expected, strict=True))


def test_a_tensor_that_is_given_twice_is_warned_of_and_moved_once() -> None:
    (a, b), loss = problem()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = recopt.Optimizer([a, b, a], "sgd", lr=0.001)
    (c, d), its_loss = problem()
    once = recopt.Optimizer([c, d], "sgd", lr=0.001)
    run(optimizer, loss, 2)
    run(once, its_loss, 2)
    assert torch.equal(a, c) and torch.equal(b, d)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert len(saved["param_groups"][0]["params"]) == 3


# states


@every_stack
def test_states_are_deterministic_and_go_on_alike(stack: str | None) -> None:
    (params, loss), (twins, its_loss) = problem(), problem()
    optimizer, other = recopt.Optimizer(params, stack), recopt.Optimizer(twins, stack)
    run(optimizer, loss, 4)
    for twin, p in zip(twins, params, strict=True):
        twin.data.copy_(p.data)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    kept = copy.deepcopy(state)
    other.load_state_dict(state)
    assert same(run(optimizer, loss, 4), run(other, its_loss, 4))
    assert repr(state) == repr(kept)
    assert repr(optimizer.state_dict()) == repr(other.state_dict())
    for group in state["param_groups"]:  # as of a version before it
        del group["maximize"]
    other.load_state_dict(state)
    assert other.param_groups[0]["maximize"] is False
    run(other, its_loss, 1)


@every_stack
def test_named_and_unnamed_states_are_exchanged(stack: str | None) -> None:
    params, loss = problem()
    named, unnamed = recopt.Optimizer(zip("wb", params, strict=True), stack), recopt.Optimizer(params, stack)
    run(named, loss, 2)
    unnamed.load_state_dict(named.state_dict())
    assert unnamed.param_groups[0]["param_names"] == ["w", "b"]
    named.load_state_dict(unnamed.state_dict())
    assert named.hyperparameters() == unnamed.hyperparameters()


@every_stack
def test_hooks_on_states_are_called_and_may_change_them(stack: str | None) -> None:
    params, loss = problem()
    optimizer, calls = recopt.Optimizer(params, stack), list[str]()
    run(optimizer, loss, 1)
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "note": 1})
    state = optimizer.state_dict()
    assert calls == ["saving"] and state["note"] == 1

    def scaled(o: Any, state: Any) -> Any:
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] = 0.002
        return state

    optimizer.register_load_state_dict_pre_hook(scaled)
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(f"loaded {o._steps}"))
    optimizer.load_state_dict(state)
    assert calls == ["saving", "first", "loaded 1"] and optimizer.param_groups[0]["lr"] == 0.002


@every_stack
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_have_all_public_attributes_and_go_on_alike(stack: str | None, way: str) -> None:
    params, loss = problem()
    optimizer = recopt.Optimizer(params, stack)
    run(optimizer, loss, 3)
    other: Any = copy.deepcopy(optimizer)
    if way == "pickle":
        torch.save(optimizer, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert {k for k in vars(optimizer) if k[0] != "_"} == {k for k in vars(other) if k[0] != "_"}
    twins = other.param_groups[0]["params"]
    for _ in range(3):
        loss()
        for twin, p in zip(twins, params, strict=True):
            twin.grad = None if p.grad is None else p.grad.clone()
        optimizer.step()
        other.step()
    assert same([p.detach() for p in params], [p.detach() for p in twins])
    assert other.hyperparameters() == optimizer.hyperparameters()
