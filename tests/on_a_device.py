"""On another device everything gives what it gives on the CPU, and reads back no more than it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.stacks.plugins import list_strategies

from .pretend import READS, pretended

BY = {"gated": "gated(gamma=0.3)"}  # without a gate above it would use nothing of its rule
ALL = [BY.get(info.name, info.name) for info in list_strategies([]) if info.name not in ("hypergradient", "replay")]
LATE = {"gate", "quasi-random", "random-search"}  # have nothing better than the start after five steps
STACKS = [
    "adam/adagrad(lr=1)[lr]", "adam/sgd/sgd", "adam/sgd[*]", "rmsprop(momentum=0.5)/sgd[*]",
    "adam(weight_decay=0.1)/hypergradient",
    "lstm@a/lstm@a", "adam/prodigy", "sgd/annealing", "mlp-rule/adam", "cmaes(restarts=bipop)",
]  # fmt: skip


def values() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 4), torch.zeros(3), torch.randn(2, 3)]


def trained(
    stack: str, device: str, start: list[Tensor] | None = None, state: dict[str, Any] | None = None, **options: Any
) -> tuple[list[Tensor], dict[str, Any]]:
    """The parameters after some steps, on the CPU, and the optimizer's state."""
    params = [nn.Parameter(v.clone().to(device)) for v in start or values()]
    x = torch.linspace(-2, 2, 64).sin().reshape(16, 4).to(device)
    optimizer = recopt.Optimizer(params, stack, **options)
    if state is not None:
        optimizer.load_state_dict(state)

    def closure() -> Tensor:
        optimizer.zero_grad()
        hidden = torch.tanh(x @ params[0].T + params[1])
        loss = ((hidden @ params[2].T - x[:, :2]) ** 2).mean()
        loss.backward()
        return loss.detach()

    for _ in range(5):
        optimizer.step(closure)
    return [torch.tensor(p.detach().tolist()) for p in params], optimizer.state_dict()


def alike(here: list[Tensor], there: list[Tensor]) -> None:
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b)


def test_it_is_a_device_and_refuses_what_one_refuses() -> None:
    with pretended() as device:
        a, b = torch.ones(3, device=device), torch.ones(3)
        assert a.device.type == device and (a + 1).device.type == device and a.to("cpu").device.type == "cpu"
        assert (2 * torch.tensor(3.0) * a).tolist() == [6.0] * 3
        refused: list[Callable[[], Any]] = [
            lambda: a + b,
            lambda: torch.stack([a, b]),
            lambda: torch.randn(3, device=device, generator=torch.Generator()),
        ]
        for act in refused:
            with pytest.raises(RuntimeError, match="expected"):
                act()


@pytest.mark.parametrize("stack", [*ALL, *STACKS])
def test_the_drop_in_does_the_same_on_a_device(stack: str) -> None:
    here, _ = trained(stack, "cpu")
    assert all(map(torch.equal, here, values())) == (stack in LATE)
    with pretended() as device:
        alike(here, trained(stack, device)[0])


TAPED: list[tuple[str, dict[str, Any]]] = [
    ("prodigy/sgd/sgd", {"every": 3}), ("lstm/adam", {"every": 3}), ("adam/sgd", {"fused": False, "every": 3}),
    ("schedule-free/kesten[lr]/sgd", {"fused": False}), ("sgd(momentum=0.9)/adam[lr]", {"scope": "coordinate"}),
]  # fmt: skip


@pytest.mark.parametrize(("stack", "options"), [*((stack, {}) for stack in (*ALL, *STACKS)), *TAPED], ids=str)
def test_a_state_may_be_loaded_on_another_device(stack: str, options: dict[str, Any]) -> None:
    """With the open windows of levels that move numbers by tapes over tensors."""
    with pretended() as device:
        for one, other in ((device, "cpu"), ("cpu", device)):
            half, state = trained(stack, one, **options)
            alike(trained(stack, one, half, state, **options)[0], trained(stack, other, half, state, **options)[0])


@pytest.mark.parametrize(
    "options", [{"fused": False}, {"levels": {2: {"every": 2}}}, {"scope": "tensor"}, {"scope": "coordinate"}], ids=str
)
def test_so_do_its_other_ways(options: dict[str, Any]) -> None:
    here, _ = trained("adam/sgd", "cpu", **options)
    with pretended() as device:
        alike(here, trained("adam/sgd", device, **options)[0])


@pytest.mark.parametrize("stack", ["learned", "adam/blend", "adam/adagrad(lr=1)[lr]"])
def test_a_loss_may_come_as_a_number(stack: str) -> None:
    ends = []
    with pretended() as device:
        for place in ("cpu", device):
            torch.manual_seed(0)
            p = nn.Parameter(torch.linspace(-1, 1, 6).to(place))
            optimizer = recopt.Optimizer([p], stack)
            for _ in range(4):
                optimizer.zero_grad()
                loss = (p * p).sum()
                loss.backward()
                optimizer.step(loss=loss.item())
            ends.append([torch.tensor(p.detach().tolist())])
    alike(*ends)


def test_a_model_on_two_devices_has_a_group_for_each() -> None:
    with pretended() as device:
        halves = [[nn.Parameter(v.clone().to(place))] for v, place in zip(values(), ("cpu", device), strict=False)]
        for groups, options in (
            ([*halves[0], *halves[1]], {}), ([{"params": half} for half in halves], {"scope": "global"}),
        ):  # fmt: skip
            with pytest.raises(recopt.RecoptError, match="lie on cpu and pretend:0: give those of each device a group"):
                recopt.Optimizer(groups, **options)
        optimizer = recopt.Optimizer([{"params": half} for half in halves], "adam/sgd")
        for _ in range(3):
            for (half,) in halves:
                half.grad = torch.ones_like(half)
            optimizer.step()
        assert [p.device.type for (p,) in halves] == ["cpu", device]
        assert optimizer.hyperparameters()["0/adam.lr"] == optimizer.hyperparameters()["1/adam.lr"]


@pytest.mark.parametrize("stack", ["adam", "adam/adagrad(lr=1)[lr]", "adam/adam/adam"])
def test_a_step_waits_for_the_device_once(stack: str) -> None:
    """But for the first ten steps and every twentieth, in which the guard measures the update."""
    torch.manual_seed(0)
    with pretended() as device:
        p = nn.Parameter(torch.ones(50, device=device))
        optimizer, reads = recopt.Optimizer([p], stack, lr=1e-3), []
        for _ in range(30):
            p.grad = torch.randn(50, device=device)
            READS.clear()
            optimizer.step()
            reads.append(READS.total())
    assert reads[10:].count(1) >= 19


@pytest.mark.parametrize(("stack", "products"), [("adam/adagrad(lr=1)[lr]", 1), ("adam/sgd[*]", 3), ("adam", 0)])
def test_a_towers_sums_are_one_operation_each_whatever_the_number_of_tensors(
    stack: str, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device is started for every operation; the CPU is quicker tensor by tensor."""
    calls, dot = list[int](), torch.dot
    monkeypatch.setattr("torch.dot", lambda a, b: calls.append(a.numel()) or dot(a, b))
    ends = []
    with pretended() as device:
        for place in ("cpu", device):
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(n % 4 + 1, 3).to(place)) for n in range(30)]
            optimizer = recopt.Optimizer(params, stack)
            for number in range(4):
                for n, p in enumerate(params):
                    p.grad = torch.linspace(-1, 1, p.numel()).add(n + number).sin().view(p.shape).to(place)
                calls.clear()
                optimizer.step()
            assert len(calls) == (products if place == device else products * 30)
            ends.append([torch.tensor(p.detach().tolist()) for p in params])
    alike(*ends)


RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tower": ("digits(hidden=[8])", "adam/sgd", {}),
    "tasks side by side": ("digits(hidden=[8])", "adam/hypergradient", {"tasks": 3}),
    "learned": ("quadratic", "lstm/adam", {"tasks": 2, "settings": ["level2.every=4", "level2.episode=8"]}),
    "exact": ("quadratic", "adam/sgd", {"settings": ["level2.second_order=true", "level2.every=3"]}),
    "self-loop": ("digits(hidden=[8])", "lstm@a/lstm@a", {"settings": ["level2.every=4"]}),
    "zero-order above": ("quadratic", "adam/annealing", {"settings": ["level2.every=4"]}),
    "estimated": ("quadratic", "adam/sgd", {"settings": ["level2.gradient=pes", "level2.every=3"]}),
    "estimated, a learned rule": ("quadratic", "lstm/adam", {"settings": ["level2.gradient=es", "level2.every=3"]}),
    "zero-order below": ("quadratic", "annealing", {}),
    "trained": ("digits(net=cnn)", "learned", {}),
    "random numbers of its own": ("quadratic", "random-search", {}),
}


@pytest.mark.filterwarnings("ignore:.*estimates from trials what:recopt.checking.errors.Notice")
@pytest.mark.parametrize("name", RUNS)
def test_the_engine_does_the_same_on_a_device(name: str) -> None:
    task, stack, options = RUNS[name]
    here = recopt.run(task, stack, steps=12, track=False, **options).after
    with pretended() as device:
        there = recopt.run(task, stack, steps=12, track=False, device=device, **options).after
    assert there == pytest.approx(here, rel=1e-5)
