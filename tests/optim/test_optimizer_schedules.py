"""Schedulers of the rate make of it what they make of torch's, for eleven stacks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

import recopt

from ..torchs import UNREAD, every_stack, problem

RATES: dict[str, Callable[[Any], Any]] = {
    "none": lambda o: schedules.ConstantLR(o, factor=1.0),
    "step": lambda o: schedules.StepLR(o, gamma=0.9, step_size=10),
    "linear": lambda o: schedules.LinearLR(o, start_factor=0.4, total_iters=4),
    "exponential": lambda o: schedules.ExponentialLR(o, gamma=0.99),
    "plateau": schedules.ReduceLROnPlateau,
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.ExponentialLR(o, gamma=0.99), schedules.StepLR(o, step_size=10, gamma=0.9)], o
    ),
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


@UNREAD
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
