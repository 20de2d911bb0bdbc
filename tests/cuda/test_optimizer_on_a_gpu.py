"""recopt.Optimizer on a GPU: the CPU's numbers, states that change places, and how often a step waits."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.stacks.plugins import list_strategies

from .. import rough
from .places import GPU, Loop, alike, needs_a_gpu, same

pytestmark = needs_a_gpu
ALONE = [info.name for info in list_strategies([]) if info.name not in ("hypergradient", "replay", "pbt")]
TOWERS = [
    "adam/adagrad(lr=1)[lr]", "adam/sgd/sgd", "rmsprop(momentum=0.5)/sgd[*]", "adam(weight_decay=0.1)/hypergradient",
    "adam/prodigy[lr]", "sgd/annealing", "mlp-rule/adam", "lstm@a/lstm@a", "muon/kesten[lr]", "cmaes(restarts=bipop)",
    "schedule-free/adagrad[lr]", "switch(among=[sgd(lr=0.1), adam])/annealing[which]",
]  # fmt: skip
OPTIONS: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}), (None, {"steps": 10}), (None, {"average": True}), (None, {"scope": "tensor"}),
    ("adam/sgd", {"depth": 5}), ("adam/sgd[*]", {"depth": 5}), ("adam/sgd", {"fused": False}),
    ("adam/sgd", {"every": 2}), ("adam/kesten[lr]", {"average": 8}), ("muon", {"lr": 0.01}),
]  # fmt: skip
DTYPES = [torch.float32, torch.float64]


def trained(stack: str | None, device: str, dtype: torch.dtype, **options: Any) -> Loop:
    loop = Loop(stack, device, dtype, **options)
    for number in range(8):
        loop.step(number)
    return loop


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("stack", "options"), [*((s, {}) for s in (*ALONE, *TOWERS)), *OPTIONS], ids=str)
def test_it_does_on_a_gpu_what_it_does_on_the_cpu(
    stack: str | None, options: dict[str, Any], dtype: torch.dtype
) -> None:
    here, there = (trained(stack, device, dtype, **options) for device in ("cpu", GPU))
    if stack is not None and "cmaes" in stack and dtype == torch.float32:
        return  # its eigenvectors are not determined by float32: a change of 1e-7 on the CPU moves it as far
    alike(here.params(), there.params(), dtype)
    rel = 1e-2 if dtype == torch.float32 else 1e-7
    assert there.optimizer.hyperparameters() == pytest.approx(here.optimizer.hyperparameters(), rel=rel, abs=1e-12)
    assert all(p.is_cuda for p in there.net.parameters())


def through_a_file(value: Any, device: str) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location=device)


@pytest.mark.parametrize("stack", [None, "adam/sgd[*]", "muon/kesten[lr]", "lstm/adam", "learned", "sgd/annealing"])
def test_a_state_that_was_saved_on_one_goes_on_on_the_other(stack: str | None) -> None:
    for one, other in ((GPU, "cpu"), ("cpu", GPU)):
        whole, again = trained(stack, one, torch.float64), Loop(stack, other, torch.float64)
        again.load(*through_a_file((whole.net.state_dict(), whole.optimizer.state_dict()), other))
        for number in range(8, 12):
            whole.step(number)
            again.step(number)
        alike(whole.params(), again.params(), torch.float64)


@pytest.mark.parametrize("stack", [None, *rough.ALONE, *rough.TOWERS, *rough.HIGH])
def test_a_rough_run_goes_on_bit_for_bit_on_a_gpu(stack: str | None) -> None:
    loop, kept, ends = Loop(stack, GPU), [], []
    for number in range(rough.STEPS):
        loop.step(number, wild=True)
        ends.append(loop.params())
        kept.append(copy.deepcopy((loop.net.state_dict(), loop.optimizer.state_dict())))
    assert loop.optimizer.guards()["skipped"] >= 3
    for number in range(4, rough.STEPS - 1):
        again = Loop(stack, GPU)
        again.load(*kept[number])
        again.step(number + 1, wild=True)
        assert same(again.params(), ends[number + 1]), f"loaded after {number}"


@pytest.mark.parametrize("stack", [None, "adam/sgd[*]", "lstm@a/lstm@a"])
def test_a_run_is_the_same_twice(stack: str | None) -> None:
    assert same(trained(stack, GPU, torch.float32).params(), trained(stack, GPU, torch.float32).params())


def waits(optimizer: recopt.Optimizer, param: nn.Parameter) -> list[int]:
    """For each of sixty steps, how often the GPU was waited for."""
    found = []
    for _ in range(60):
        param.grad = torch.randn_like(param)
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            optimizer.step()
            torch.cuda.set_sync_debug_mode("default")
        found.append(sum("synchronizing CUDA operation" in str(each.message) for each in told))
    return found


@pytest.mark.parametrize("stack", [None, "adam", "adam/adagrad(lr=1)[lr]", "adam/adam/adam", "adam/sgd[*]"])
def test_a_step_waits_for_the_gpu_once(stack: str | None) -> None:
    """But for the first ten steps and every twentieth, in which the guard measures the update of a tower, and for the
    default after each look at its gain."""
    param = nn.Parameter(torch.randn(50, 10, device=GPU))
    found = waits(recopt.Optimizer([param], stack), param)[10:]
    assert found.count(1) >= (46 if stack else 36)
    assert max(found) <= 3


def test_weights_in_half_precision_are_trained() -> None:
    ends = []
    for device in ("cpu", GPU):
        torch.manual_seed(0)
        net = nn.Linear(8, 4).to(device, torch.bfloat16)
        optimizer = recopt.Optimizer(net.parameters(), steps=20)
        for number in range(20):
            x = torch.linspace(-1, 1, 64).add(number).sin().reshape(8, 8).to(device, torch.bfloat16)
            optimizer.zero_grad()
            (net(x) - x[:, :4]).float().square().mean().backward()
            optimizer.step()
        ends.append(net.weight.detach().cpu().float())
    torch.testing.assert_close(*ends, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("stack", [None, "adam/sgd", "adam/sgd/sgd"])
def test_autocast_and_a_scaler_train_and_skip_what_overflows(stack: str | None) -> None:
    losses: dict[bool, list[float]] = {}
    for scaled in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)).to(GPU)
        optimizer = recopt.Optimizer(net.parameters(), stack)
        scaler = torch.amp.GradScaler(GPU, init_scale=2.0**10, enabled=scaled)
        losses[scaled] = []
        for number in range(12):
            x = torch.linspace(-1, 1, 96).add(number).sin().reshape(16, 6).to(GPU)
            optimizer.zero_grad()
            with torch.autocast(GPU, dtype=torch.float16, enabled=scaled):
                loss = (net(x) - x[:, :3]).float().square().mean()
            scaler.scale(loss * (float("inf") if scaled and number == 5 else 1.0)).backward()
            before = [p.detach().clone() for p in net.parameters()]
            if not (number == 5 and not scaled):
                scaler.step(optimizer)
                scaler.update()
            still = all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
            assert still == (number == 5)
            losses[scaled].append(loss.item())
    assert losses[True] == pytest.approx(losses[False], rel=3e-2)


@pytest.mark.filterwarnings("ignore")  # the compiler's own, of what it imports and of faster arithmetic
def test_a_compiled_model_is_trained() -> None:
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net: Any = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)).to(GPU)
        optimizer = recopt.Optimizer(net.parameters(), "adam/sgd")
        call = torch.compile(net) if compiled else net
        for number in range(10):
            x = torch.linspace(-1, 1, 96).add(number).sin().reshape(16, 6).to(GPU)
            optimizer.zero_grad()
            (call(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
        ends.append([p.detach().cpu() for p in net.parameters()])
    alike(*ends, torch.float32)


@pytest.mark.parametrize("stack", [None, "adam/sgd", "adam/sgd[*]", "lstm"])
def test_a_model_may_lie_on_both_with_a_group_for_each(stack: str | None) -> None:
    ends = []
    for device in ("cpu", GPU):
        torch.manual_seed(0)
        first, second = nn.Linear(6, 8).double(), nn.Linear(8, 3).double().to(device)
        optimizer = recopt.Optimizer([{"params": half.parameters()} for half in (first, second)], stack)
        for number in range(12):
            x = torch.linspace(-1, 1, 96, dtype=torch.float64).add(number).sin().reshape(16, 6)
            optimizer.zero_grad()
            (second(first(x).tanh().to(device)).cpu() - x[:, :3]).square().mean().backward()
            optimizer.step()
        ends.append([p.detach().cpu() for p in (*first.parameters(), *second.parameters())])
    alike(*ends, torch.float64)


def test_a_step_on_another_stream_is_the_same() -> None:
    plain, other = Loop(None, GPU), Loop(None, GPU)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for number in range(6):
        plain.step(number)
        with torch.cuda.stream(stream):
            other.step(number)
    torch.cuda.synchronize()
    assert same(plain.params(), other.params())


def test_the_loss_of_a_step_may_be_told_from_either_place() -> None:
    ends: list[list[Tensor]] = []
    for kind in (float, Tensor.cpu, Tensor.detach):
        loop = Loop("learned", GPU)
        for number in range(4):
            x = torch.linspace(-1, 1, 24).add(number).sin().reshape(8, 3).to(GPU)
            loop.optimizer.zero_grad()
            loss = loop.net(x).square().mean()
            loss.backward()
            loop.optimizer.step(loss=kind(loss.detach()))
        ends.append(loop.params())
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])
