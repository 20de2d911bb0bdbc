"""What PyTorch asks of its own optimizers (TestOptimRenewed, TestLRScheduler), asked of eleven stacks.

Exceptions, each with its reason: gradients that are sparse are refused (docs/optimizer.md); OneCycleLR and CyclicLR
want ``cycle_momentum=False``, since of a group only the rate is read; ``foreach``, ``capturable`` and
``differentiable`` are no settings, and ``fused`` chooses closed forms.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedules
from torch.optim.optimizer import register_optimizer_step_pre_hook

import recopt
from recopt import RecoptError

STACKS = ["sgd", "sgd(momentum=0.9)", "adam", "adam(weight_decay=0.1)", "rmsprop", "adagrad", None, "adam/sgd/sgd",
          "sgd/adam[*]", "schedule-free", "prodigy"]  # fmt: skip
every_stack = pytest.mark.parametrize("stack", STACKS)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(strided: bool = False) -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """A weight and a bias, and a loss of them that is differentiated when it is called."""
    weight, bias = drawn(10, 5, 2)[..., 0], drawn(10, 2, seed=1)[..., 0]
    params = [nn.Parameter(t if strided else t.contiguous()) for t in (weight, bias)]
    x = drawn(5, seed=2)

    def loss() -> Tensor:
        for p in params:
            p.grad = None
        found = (params[0].mv(x) + params[1]).square().sum()
        found.backward()
        return found

    return params, loss


def run(optimizer: recopt.Optimizer, loss: Callable[[], Tensor], steps: int) -> list[Tensor]:
    for _ in range(steps):
        optimizer.step(loss)
    return [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "none": lambda o: schedules.ConstantLR(o, factor=1.0),
    "step": lambda o: schedules.StepLR(o, gamma=0.9, step_size=10),
    "linear": lambda o: schedules.LinearLR(o, start_factor=0.4, total_iters=4),
    "exponential": lambda o: schedules.ExponentialLR(o, gamma=0.99),
    "plateau": schedules.ReduceLROnPlateau,
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.ExponentialLR(o, gamma=0.99), schedules.StepLR(o, step_size=10, gamma=0.9)], o
    ),
}


# steps


@every_stack
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_loop_goes_in_the_right_direction(stack: str | None, schedule: str) -> None:
    for strided in (False, True):
        params, loss = problem(strided)
        optimizer = recopt.Optimizer(params, stack, **({"lr": 1e-3} if stack in ("sgd", "sgd(momentum=0.9)") else {}))
        plan, first = SCHEDULES[schedule](optimizer), loss().item()
        for _ in range(25):
            found = optimizer.step(loss)
            plan.step(found.item()) if schedule == "plateau" else plan.step()
        assert loss().item() < first


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
        assert f"{name}={value:.4g}" in text


# groups


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
    if stack == "prodigy":
        stack = "prodigy/sgd"
    ends, alike = (
        [],
        (0.01, torch.tensor(0.01, dtype=torch.float64), np.float64(0.01), torch.tensor([0.01], dtype=torch.float64)),
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


TWINS: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    ("sgd", torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}, {}),
    ("adam", torch.optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}, {}),
    ("adam", torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": False}, {}),
    ("rmsprop", torch.optim.RMSprop, {"alpha": 0.8, "eps": 1e-4, "momentum": 0.5, "centered": True}, {}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 0.1, "weight_decay": 0.1}, {}),
    ("adagrad", torch.optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-4}, {}),
    ("adam", torch.optim.NAdam, {}, {"momentum_decay": 0.004}),
    ("adam", torch.optim.Adam, {}, {"amsgrad": True, "capturable": True, "differentiable": True}),
    ("sgd", torch.optim.SGD, {}, {"dampening": 0.1}),
]
"""Rules, torch's classes, settings that both have, and settings that only torch's has."""


@pytest.mark.parametrize(("rule", "theirs", "both", "only"), TWINS)
def test_torchs_names_of_settings_are_taken_where_the_rule_has_them_and_refused_where_not(
    rule: str, theirs: Any, both: dict[str, Any], only: dict[str, Any]
) -> None:
    (a, its_loss), (b, as_group), (c, as_argument) = problem(), problem(), problem()
    twin = theirs(a, **both)
    whole = {key: value for key, value in twin.param_groups[0].items() if key not in only}  # all that torch's keeps
    for _ in range(5):
        twin.step(its_loss)
    if not only:
        run(recopt.Optimizer([{**whole, "params": b}], rule), as_group, 5)
        del whole["params"]
        run(recopt.Optimizer(c, rule, **{**whole, "fused": True}), as_argument, 5)
        for mine in (b, c):
            assert all(torch.allclose(x, y, rtol=1e-12) for x, y in zip(a, mine, strict=True))
    for name, value in only.items():
        for where in ({"params": [{"params": b, name: value}]}, {"params": b, name: value}):
            with pytest.raises(RecoptError, match=f"Level 1 has no '{name}'.*leave it out, or set"):
                recopt.Optimizer(stack=rule, **where)


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


# schedulers

RATES: dict[str, Callable[[Any], Any]] = {
    **SCHEDULES,
    "lambda": lambda o: schedules.LambdaLR(o, lambda n: 0.9**n),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda n: 0.95),
    "multistep": lambda o: schedules.MultiStepLR(o, milestones=[2, 5, 9], gamma=0.1),
    "constant": lambda o: schedules.ConstantLR(o, factor=0.5, total_iters=4),
    "polynomial": lambda o: schedules.PolynomialLR(o, total_iters=8, power=0.9),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, T_max=8, eta_min=1e-4),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "cyclic": lambda o: schedules.CyclicLR(o, base_lr=1e-3, max_lr=1e-2, step_size_up=3, cycle_momentum=False),
    "one cycle": lambda o: schedules.OneCycleLR(o, max_lr=0.02, total_steps=15, cycle_momentum=False),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=3), schedules.ExponentialLR(o, gamma=0.9)], milestones=[3]
    ),
    "averaged": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.002, anneal_epochs=4),
}


@every_stack
@pytest.mark.parametrize("name", RATES)
def test_schedulers_make_of_the_rate_what_they_make_of_torchs(stack: str | None, name: str) -> None:
    (params, loss), (twins, its_loss) = problem(), problem()
    settings = {} if stack == "prodigy" else {"lr": 0.001}
    ours = recopt.Optimizer(params, stack, **settings)
    start = ours.param_groups[0]["lr"]
    theirs = torch.optim.SGD(twins, lr=start)
    plans = [RATES[name](o) for o in (ours, theirs)]
    for step in range(12):
        ours.step(loss)
        theirs.step(its_loss)
        for plan in plans:
            plan.step(1.0) if name == "plateau" else plan.step()
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        if step == 5:  # the schedule and the optimizer are saved and loaded
            saved = copy.deepcopy((ours.state_dict(), plans[0].state_dict()))
            ours = recopt.Optimizer(params, stack, **settings)
            plans[0] = RATES[name](ours)
            plans[0].load_state_dict(saved[1])
            ours.load_state_dict(saved[0])
    if stack == "sgd":
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(params, twins, strict=True))


@every_stack
def test_schedulers_that_cycle_the_momentum_say_that_there_is_none(stack: str | None) -> None:
    optimizer = recopt.Optimizer(problem()[0], stack)
    with pytest.raises(ValueError, match="must support momentum"):
        schedules.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
