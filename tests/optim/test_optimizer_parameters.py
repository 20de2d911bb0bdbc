"""The parameters of recopt.Optimizer: odd parameters, those that come late or rest, groups and what they share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError
from recopt.checking.errors import Notice
from recopt.stacks.plugins import list_strategies

from ..loops import mlp, steps

BY = {"gated": "gated(gamma=0.3)"}  # without a gate above it would use nothing of its rule
ALL = [BY.get(info.name, info.name) for info in list_strategies([]) if info.name != "replay"]  # that needs a record


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_keep_their_moments_in_float32(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.01)/sgd[*]")
    losses = steps(model, optimizer, 60, dtype)
    state = optimizer.state_dict()["state"]
    assert sorted(state) == [0, 1, 2, 3]
    held = [entry[name] for entry in state.values() for name in ("mean", "square", "recopt.kept.raw")]
    assert {t.dtype for t in held} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert losses[-1] < 0.5 * losses[0]


def test_complex_parameters_are_two_real_ones() -> None:
    torch.manual_seed(0)
    target = torch.randn(5, dtype=torch.complex128)
    found = []
    for real in (False, True):
        point = torch.zeros(5, 2, dtype=torch.float64) if real else torch.zeros(5, dtype=torch.complex128)
        p = nn.Parameter(point)
        optimizer = recopt.Optimizer([p], "adam(lr=0.1)/sgd")
        for _ in range(20):
            optimizer.zero_grad()
            (torch.view_as_complex(p) if real else p).sub(target).abs().square().sum().backward()
            optimizer.step()
        found.append(p.detach() if real else torch.view_as_real(p.detach()))
    assert torch.equal(*found)


def test_tied_frozen_and_absent_parameters() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 3), "idle": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["c"].bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.01,weight_decay=0.1)/sgd")
    losses = []
    for _ in range(40):
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        loss = (model["c"](torch.tanh(model["b"](torch.tanh(model["a"](x))))) - x[:, :3]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model["b"].weight is model["a"].weight
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == {"c.bias", "idle.weight", "idle.bias"}


@pytest.mark.parametrize("fused", [True, False])
def test_a_parameter_that_joins_late_starts_afresh(fused: bool) -> None:
    """Adam's bias correction counts from the tensor's own first gradient, as in torch; a pause leaves it in place."""
    found = []
    for make in (lambda p: recopt.Optimizer(p, "adam(lr=0.1)", fused=fused), lambda p: torch.optim.Adam(p, lr=0.1)):
        a, b = nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = make([a, b])
        for step in range(12):
            optimizer.zero_grad()
            (a.square().sum() + (b.square().sum() if step >= 5 else 0.0)).backward()
            optimizer.step()
        held = b.detach().clone()
        optimizer.zero_grad()
        a.square().sum().backward()
        optimizer.step()
        assert torch.equal(b, held)
        found.append(torch.cat([a.detach(), b.detach()]))
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_an_idle_tensor_has_no_part_in_the_hypergradient() -> None:
    """One that is in the model and rests gives the same rates as one that is not there."""
    rates = []
    for extra in (False, True):
        a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((3,), 2.0))
        optimizer = recopt.Optimizer([a, b] if extra else [a], "sgd(lr=0.01)/sgd", guard=False)
        for step in range(6):
            optimizer.zero_grad()
            loss = ((a - 5) ** 2).sum() + (0 * b.sum() if extra and step == 0 else 0)
            loss.backward()
            optimizer.step()
        rates.append(optimizer.hyperparameters()["sgd.lr"])
    assert rates[0] == pytest.approx(rates[1], rel=1e-9)


def pulled_to(targets: list[Tensor], starts: list[Tensor], stack: str, **options: Any) -> list[nn.Parameter]:
    """The point that ``stack`` reaches from ``starts``, empty ones left out, by the distance from ``targets``."""
    params = [nn.Parameter(s.clone()) for s in starts]
    full = [p for p in params if p.numel()]
    levels = {1: {"normalize": "none"}} if stack == "hypergradient" else {}
    stack = f"{stack}(spread=0.5)" if stack in ("random-search", "quasi-random", "optuna") else stack
    optimizer = recopt.Optimizer(params, stack, levels=levels, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(p.double() - t).square().sum() for p, t in zip(full, targets, strict=True)]).sum()
        loss.backward()
        for p in params:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return loss

    for _ in range(60 if stack == "pbt" or stack.endswith("(spread=0.5)") else 6):
        optimizer.step(closure)
    return full


def targets() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((4, 3), (3,), (5,))]


@pytest.mark.parametrize("stack", [*ALL, "adam/sgd", "lstm/adam", "learned/adam"])
def test_empty_tensors_change_nothing(stack: str) -> None:
    starts = [torch.full(t.shape, 2.0) for t in targets()]
    plain = pulled_to(targets(), starts, stack)
    beside = pulled_to(targets(), [torch.zeros(0), *starts[:2], torch.zeros(0, 4), *starts[2:]], stack)
    assert all(torch.equal(a, b) for a, b in zip(plain, beside, strict=True))
    assert stack == "gate" or not torch.equal(plain[0], starts[0])  # which stays where it is until it opens


@pytest.mark.parametrize("stack", ["adam", "annealing", "learned", "sgd/annealing"])
def test_nothing_but_empty_tensors_is_nothing_to_do(stack: str) -> None:
    p = nn.Parameter(torch.zeros(0))
    optimizer = recopt.Optimizer([p], stack)

    def closure() -> Tensor:
        loss = p.sum() + 1
        loss.backward()
        return loss.detach()

    assert [float(optimizer.step(closure)) for _ in range(3)] == [1.0] * 3


@pytest.mark.parametrize("stack", [*ALL, "adam/sgd", "lstm/adam", "learned/adam", "learned/adam/sgd"])
@pytest.mark.parametrize("first", [torch.float32, torch.float64])
def test_tensors_of_two_types_are_moved_together(stack: str, first: torch.dtype) -> None:
    """As if all were of the wider type, up to rounding, and each stays in its own.

    Rounding turns the eigenvectors of a nearly round covariance, and with them all that cmaes draws.
    """
    other = torch.float64 if first == torch.float32 else torch.float32
    wide = [torch.zeros(t.shape, dtype=torch.float64) for t in targets()]
    mixed = pulled_to(targets(), [z.to(d) for z, d in zip(wide, (first, other, first), strict=True)], stack)
    assert [p.dtype for p in mixed] == [first, other, first]
    if stack == "cmaes":
        assert all(bool(p.isfinite().all()) and bool(p.any()) for p in mixed)
        return
    for a, b in zip(mixed, pulled_to(targets(), wide, stack), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4)


def test_groups_stacks_and_scopes() -> None:
    model = mlp()
    first, last = list(model[0].parameters()), list(model[2].parameters())
    groups: list[dict[str, Any]] = [{"params": first, "lr": 0.01}, {"params": last, "stack": "sgd(lr=0.2)/sgd"}]
    optimizer = recopt.Optimizer(groups, "adam/sgd")
    assert optimizer.describe() == ["adam/sgd(lr=0.05)[lr]", "sgd(lr=0.2)/sgd(lr=0.05)[lr]"]
    assert optimizer.hyperparameters()["0/adam.lr"] == pytest.approx(0.01)
    steps(model, optimizer, 20)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.2])
    for scope, towers in (("tensor", 4), ("group", 2), ("global", 1)):
        model = mlp()
        optimizer = recopt.Optimizer(
            [{"params": list(layer.parameters())} for layer in (model[0], model[2])], "adam/sgd", scope=scope
        )
        losses = steps(model, optimizer, 30)
        rates = [v for k, v in optimizer.hyperparameters().items() if k.endswith("adam.lr")]
        assert len(set(rates)) == len(rates) == towers
        assert losses[-1] < losses[0]


def test_add_param_group_and_one_tower_over_two_groups_is_one_group() -> None:
    found = []
    for split in (False, True):
        model = mlp()
        parts = [list(model[0].parameters()), list(model[2].parameters())]
        optimizer = recopt.Optimizer(parts[0] if split else [*parts[0], *parts[1]], "adam/sgd", scope="global")
        if split:
            optimizer.add_param_group({"params": parts[1]})
        found.append(steps(model, optimizer, 30))
    assert found[0] == found[1]


@pytest.mark.parametrize("stack", ["annealing", "random-search"])
def test_a_group_that_joins_a_search_is_searched_too(stack: str) -> None:
    a, b = nn.Parameter(torch.full((3,), 3.0)), nn.Parameter(torch.full((2,), 3.0))
    optimizer = recopt.Optimizer([a], stack, scope="global")

    def closure() -> Tensor:
        return a.detach().square().sum() + b.detach().square().sum()

    for _ in range(3):
        optimizer.step(closure)
    optimizer.add_param_group({"params": [b]})
    for _ in range(100):
        optimizer.step(closure)
    assert optimizer.describe() == [stack] and float(closure()) < 20
    assert not torch.equal(b, torch.full((2,), 3.0)) and not torch.equal(a, torch.full((3,), 3.0))


def test_patterns_give_weights_and_biases_their_own_strategy() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.named_parameters(), "adam(lr=0.01)[*weight]+sgd(lr=0.1)[*bias]/hypergradient")
    losses = steps(model, optimizer, 40)
    values = optimizer.hyperparameters()
    assert values["adam.lr"] != pytest.approx(0.01, rel=1e-6)
    assert values["sgd.lr"] != pytest.approx(0.1, rel=1e-6)
    assert losses[-1] < losses[0]


def test_a_shared_tower_is_shared_by_groups_of_the_same_settings_only() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [{"params": [a], "weight_decay": 0.5}, {"params": [b]}, {"params": [c]}]
    optimizer = recopt.Optimizer(groups, "sgd(lr=0.1)", scope="global")
    assert len(optimizer.describe()) == 2
    for p in (a, b, c):
        p.grad = torch.zeros(2)
    optimizer.step()
    assert a.tolist() == pytest.approx([0.95] * 2)
    assert b.tolist() == c.tolist() == [1.0] * 2


def test_common_settings_are_for_the_common_stack() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = recopt.Optimizer([{"params": [a], "stack": "sgd(lr=0.25)"}, {"params": [b]}], "adam", lr=0.5, beta1=0.5)
    found = optimizer.hyperparameters()
    assert (found["0/sgd.lr"], found["1/adam.lr"]) == pytest.approx((0.25, 0.5))


def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was() -> None:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = recopt.Optimizer([first], "adam/sgd")
    for group in ({"params": second, "lrr": 1.0}, {"params": second, "stack": "adamm"}, {"params": second, "lr": -1.0}):
        with pytest.raises(RecoptError):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert torch.equal(second, torch.ones(2)) and not torch.equal(first, torch.ones(2))
    optimizer.add_param_group({"params": second, "lr": 0.5})
    optimizer.step()
    assert not torch.equal(second, torch.ones(2))


def test_nor_does_one_that_is_refused_at_its_second_tensor_leave_a_tower() -> None:
    first, second, odd = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), torch.ones(2, dtype=torch.int64)
    optimizer = recopt.Optimizer([first], "adam/sgd", scope="tensor")
    with pytest.raises(RecoptError, match="int64 cannot be optimized"):
        optimizer.add_param_group({"params": [second, odd]})
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert len(optimizer.describe()) == 1
    assert torch.equal(second, torch.ones(2))


def test_strategies_of_ones_own_come_from_a_folder_or_a_file_that_is_named(tmp_path: Path) -> None:
    text = "from recopt import Strategy, positive\nclass Mine(Strategy):\n    'Mine.'\n    lr = positive({})\n"
    body = """
    def forward(self, point, trials, state, rng):
        return [-self.lr * g for g in trials[0].grads], state
"""
    (tmp_path / "mine.py").write_text(text.format(0.25) + body)
    (tmp_path / "adam.py").write_text(text.format(0.5) + body)
    w = nn.Parameter(torch.ones(2))
    for place in (tmp_path, [str(tmp_path / "mine.py")]):
        optimizer = recopt.Optimizer([{"params": [w], "lr": 0.125}], "mine/adagrad", plugins=place)
        w.data.fill_(1.0)
        w.grad = torch.ones(2)
        optimizer.step()
        assert torch.equal(w.data, torch.full((2,), 0.875))
    with pytest.warns(Notice, match="'adam' is taken from .*, not shipped"):
        assert recopt.Optimizer([w], "adam", plugins=tmp_path).hyperparameters() == {"adam.lr": 0.5}
    (tmp_path / "paced.py").write_text(text.format(0.5) + body)
    assert recopt.Optimizer([w], plugins=tmp_path).hyperparameters()["paced.lr"] == 1, "the default is what ships"


def test_what_python_prints_of_an_optimizer_says_what_it_is_at_and_where_its_mean_is_read() -> None:
    w = nn.Parameter(torch.ones(2))
    shown = repr(recopt.Optimizer([w], average=True))
    assert "stack: paced" in shown and "paced: lr=1, beta1=0.9" in shown and "with opt.averaged():" in shown
    assert "averaged" not in repr(recopt.Optimizer([w]))


@pytest.mark.parametrize("stack", [None, "adam/sgd", "prodigy", "annealing", "lstm/adam"])
@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_quantized_weights_stay_aside_as_in_torch(stack: str | None, scope: Any) -> None:
    ends = []
    for beside in (False, True):
        weight = nn.Parameter(torch.ones(3))
        whole = [nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)] * beside
        optimizer = recopt.Optimizer([*whole, weight], stack, scope=scope)

        def closure(weight: nn.Parameter = weight) -> Tensor:
            weight.grad = None
            loss = ((weight - 3) ** 2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        for step in range(4):
            optimizer.step(closure)
            if step == 1:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = recopt.Optimizer([*whole, weight], stack, scope=scope)
                optimizer.load_state_dict(saved)
        assert all(torch.equal(p, torch.ones(2, dtype=torch.int8)) for p in whole)
        ends.append(weight.detach())
    assert torch.equal(*ends)
