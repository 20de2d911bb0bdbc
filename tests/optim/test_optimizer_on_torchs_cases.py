"""The cases that PyTorch tests its own optimizers on, which ship with it: settings, errors and schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError

from ..torchs import UNREAD, every_stack, problem, run, shipped

RULES = {"SGD": "sgd", "Adam": "adam", "AdamW": "adam", "RMSprop": "rmsprop", "Adagrad": "adagrad"}
LACKS = ("amsgrad", "dampening", "momentum_decay", "capturable", "differentiable")
"""Settings of torch's optimizers that no rule has."""


def info(name: str) -> Any:
    return next(found for found in shipped().optim_db if found.optim_cls.__name__ == name)


def whole(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A group of torch's optimizer, with all that it keeps there."""
    (group,) = info(name).optim_cls([nn.Parameter(torch.ones(()))], **settings).param_groups
    return {key: value for key, value in group.items() if key != "params"}


@pytest.mark.parametrize("name", RULES)
def test_every_setting_that_torch_is_tested_on_gives_its_steps_or_is_refused(name: str) -> None:
    equal, refused = 0, 0
    for case in shipped()._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float64, info(name)):
        (mine, loss), (theirs, its_loss) = problem(), problem()
        settings = whole(name, case.kwargs)
        if lacks := [key for key in LACKS if settings.get(key)]:
            for where in ({"params": [{**settings, "params": mine}]}, {**settings, "params": mine, "fused": True}):
                with pytest.raises(RecoptError, match=f"Level 1 has no '{lacks[0]}'.*leave it out, or set"):
                    recopt.Optimizer(stack=RULES[name], **where)
            refused += 1
            continue
        twin = info(name).optim_cls(theirs, **case.kwargs)
        run(recopt.Optimizer([{**settings, "params": mine}], RULES[name]), loss, 5)
        for _ in range(5):
            twin.step(its_loss)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(mine, theirs, strict=True)), case
        again, again_loss = problem()
        run(recopt.Optimizer(again, RULES[name], **{**settings, "fused": bool(settings.get("fused"))}), again_loss, 5)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(again, theirs, strict=True)), case
        equal += 1
    assert equal >= 8 and refused >= 5


TAKEN = ("foreach & not capturable", "both floats or both Tensors", "capturable=False and foreach=True")
"""Refusals that torch's ways of computing need and ours do not: numbers are read out of tensors."""


def wrong(case: Any, stack: str | None) -> None:
    """What torch refuses or warns of is refused or warned of by its kind of error."""
    given = case.optimizer_error_input
    params = given.params if given.params is not None else [nn.Parameter(torch.ones(2))]
    kind = case.error_type
    with pytest.warns(kind) if issubclass(kind, Warning) else pytest.raises(kind):
        recopt.Optimizer(params, stack, **given.kwargs)


@UNREAD
@every_stack
def test_what_torch_refuses_of_every_optimizer_is_refused_alike(stack: str | None) -> None:
    cases = shipped().get_error_inputs_for_all_optims("cpu", torch.float64)
    assert len(cases) >= 6
    for case in cases:
        wrong(case, stack)


@pytest.mark.parametrize("name", RULES)
def test_what_torch_refuses_of_one_optimizer_is_refused_alike(name: str) -> None:
    cases = info(name).optim_error_inputs_func("cpu", torch.float64)
    own = [case for case in cases if not any(word in case.optimizer_error_input.desc for word in TAKEN)]
    assert len(own) >= 7
    for case in own:
        wrong(case, RULES[name])
    for case in cases:
        if case not in own:
            recopt.Optimizer([nn.Parameter(torch.ones(2))], RULES[name], **case.optimizer_error_input.kwargs)


@UNREAD
@every_stack
def test_every_schedule_that_torch_is_tested_on_goes_in_the_right_direction_at_torchs_rates(stack: str | None) -> None:
    plans = [*info("Adam").scheduler_inputs, *info("SGD").scheduler_inputs]
    assert len(plans) >= 10
    for make in plans:
        (params, loss), (twins, its_loss) = problem(), problem()
        settings = {} if stack == "prodigy" else {"lr": 1e-3}
        ours = recopt.Optimizer(params, stack, **settings)
        theirs = torch.optim.SGD(twins, lr=ours.param_groups[0]["lr"])
        first, both = loss().item(), [[plan(o) for plan in make] for o in (ours, theirs)]
        for _ in range(20):
            found = ours.step(loss)
            theirs.step(its_loss)
            for plan in (plan for side in both for plan in side):
                late = isinstance(plan, torch.optim.lr_scheduler.ReduceLROnPlateau)
                plan.step(found.item()) if late else plan.step()
            assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        assert loss().item() < first


@every_stack
def test_sparse_gradients_are_refused(stack: str | None) -> None:
    weight = nn.Parameter(torch.ones(4, 2))
    weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
    with pytest.raises(RecoptError, match="sparse"):
        recopt.Optimizer([weight], stack).step()
