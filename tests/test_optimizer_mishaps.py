"""recopt.Optimizer where things go wrong: losses of another size, bad batches, idle tensors, wild schedules, slips."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

TARGET = torch.tensor([1.0, -0.5, 0.3, 2.0, -1.2])
SILENT = pytest.mark.filterwarnings("ignore:recopt.Optimizer skipped a step")


def distance(w: Tensor) -> Tensor:
    return ((w - TARGET) ** 2).sum()


@SILENT
@pytest.mark.parametrize("stack", [None, "adam(lr=0.05)", "sgd(lr=0.05, momentum=0.9)", "adam/sgd"])
def test_losses_of_another_size_from_some_step_on_do_not_stop_training(stack: str | None) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack)
    for step in range(300):
        optimizer.zero_grad()
        loss = distance(w) * (0.01 if step < 12 else 1.0)
        loss.backward()
        optimizer.step(loss=loss)
    assert distance(w) < 0.1 * distance(torch.ones(5))
    assert optimizer.guards()["skipped"] == 1


@SILENT
@pytest.mark.parametrize(("factor", "steps"), [(0.0, 1), (0.01, 12)])
def test_nor_do_they_stop_a_rule_that_compares_them(factor: float, steps: int) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(64, 4)
    optimizer = recopt.Optimizer(model.parameters(), "learned")
    losses = []
    for step in range(100):
        optimizer.zero_grad()
        loss = (model(x).squeeze() - x.sum(1).sin()).square().mean()
        losses.append(loss.item())
        (loss * (factor if step < steps else 1.0)).backward()
        optimizer.step(loss=loss * (factor if step < steps else 1.0))
    assert losses[-1] < 0.1 * losses[0]


@SILENT
@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "sgd(lr=0.05)", "rmsprop", "adagrad(lr=0.3)", "adam/sgd", "lstm"])
def test_many_bad_batches_cost_only_their_steps(stack: str) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack)
    for step in range(400):
        optimizer.zero_grad()
        distance(w).backward()
        if 10 <= step < 70 or 80 <= step < 90:
            assert w.grad is not None
            w.grad.fill_(float("nan"))
        optimizer.step()
    assert optimizer.guards()["skipped"] == 70
    assert bool(w.isfinite().all())
    if stack != "lstm":
        assert distance(w) < 0.5 * distance(torch.ones(5))


@SILENT
@pytest.mark.parametrize("stack", [None, "adam", "adam/sgd", "rmsprop/sgd[*]", "prodigy/adam"])
def test_a_tensor_without_a_gradient_stays_where_it_is_whatever_the_guard_does(stack: str | None) -> None:
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = recopt.Optimizer([a, b, c], stack, **({} if stack and "prodigy" in stack else {"lr": 1.0}))
    kept: list[Tensor] = []
    for step in range(6):
        optimizer.zero_grad()
        loss = ((a - 5) ** 2).sum() + (((b - 5) ** 2).sum() if step < 2 else 0)
        loss.backward()
        if step >= 4:
            assert a.grad is not None
            a.grad.fill_(float("inf"))  # two in a row: the last update is taken back
        optimizer.step()
        if step == 1:
            kept = [b.detach().clone(), c.detach().clone()]
    assert torch.equal(b, kept[0]) and torch.equal(c, kept[1])


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


@pytest.mark.parametrize("factor", [1e3, 1e4])
def test_a_wild_schedule_is_cut_back(factor: float) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(64, 6)
    optimizer = recopt.Optimizer(model.parameters())
    for step in range(40):
        if step == 25:
            optimizer.param_groups[0]["lr"] *= factor
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert (after - before).norm() <= 0.2001 * max(before.norm(), 0.01 * math.sqrt(len(before)))


def test_climbing_is_the_mirror_of_descending_wherever_losses_are_read() -> None:
    for stack in ("learned", "annealing", "random-search", "adam/random-search", "sgd(lr=0.05)/annealing"):
        ends = []
        for sign in (1.0, -1.0):
            w = nn.Parameter(torch.ones(5))
            optimizer = recopt.Optimizer([w], stack, maximize=sign < 0)

            def closure(w: Tensor = w, sign: float = sign, optimizer: recopt.Optimizer = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = sign * distance(w)
                loss.backward()
                return loss

            for _ in range(25):
                optimizer.step(closure)
            ends.append(w.detach().clone())
        assert torch.equal(*ends), stack


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


@pytest.mark.parametrize("stack", ["adam/lstm", "sgd/learned", "adam/blend/sgd"])
def test_a_network_may_move_numbers(stack: str) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack, lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = distance(w)
        loss.backward()
        optimizer.step(loss=loss)
    rate = next(value for key, value in optimizer.hyperparameters().items() if key.endswith(".lr"))
    assert math.isfinite(rate) and rate != 1e-2
    assert distance(w) < distance(torch.ones(5))


@pytest.mark.parametrize("loss", ["array", "double", "one element"])
def test_a_loss_may_come_as_any_number(loss: str) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], "learned")
    for _ in range(3):
        optimizer.zero_grad()
        found = distance(w)
        found.backward()
        forms = {"array": lambda x: np.float64(x.item()), "double": Tensor.double, "one element": lambda x: x[None]}
        optimizer.step(loss=forms[loss](found))
    assert distance(w) < distance(torch.ones(5))


@pytest.mark.parametrize("stack", ["lstm/adam", "learned/adam", "prodigy/adagrad"])
def test_a_copy_goes_on_like_what_it_was_copied_from(stack: str) -> None:
    w = nn.Parameter(torch.ones(5))
    pair = w, recopt.Optimizer([w], stack)

    def train(w: nn.Parameter, optimizer: recopt.Optimizer) -> list[float]:
        for _ in range(7):
            optimizer.zero_grad()
            loss = distance(w)
            loss.backward()
            optimizer.step(loss=loss)
        return w.tolist()

    train(*pair)
    other = copy.deepcopy(pair)
    assert train(*other) == train(*pair)


def test_what_does_not_fit_is_refused_before_anything_is_changed() -> None:
    w = nn.Parameter(torch.ones(5))

    def made(p: nn.Parameter = w, **options: Any) -> recopt.Optimizer:
        optimizer = recopt.Optimizer([p], "adam/sgd", **options)
        p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer

    saved = made().state_dict()
    for match, state, optimizer in [
        ("every=1 on level 2, this optimizer 3", saved, made(every=3)),
        ("normalize=rms_all on level 2", saved, made(normalize="rms")),
        ("in torch.float32, not torch.float64", saved, made(nn.Parameter(torch.ones(5, dtype=torch.float64)))),
        ("not NoneType", None, made()),
        ("not str", "adam", made()),
        ("another optimizer", torch.optim.Adam([w]).state_dict(), made()),
        ("lacks levels", {**saved, "state": {"recopt": {k: v for k, v in saved["state"]["recopt"].items()
                                                        if k != "levels"}}}, made()),
    ]:  # fmt: skip
        before = optimizer.hyperparameters()
        with pytest.raises(RecoptError, match=match):
            optimizer.load_state_dict(state)  # type: ignore[arg-type]
        assert optimizer.hyperparameters() == before


def slips() -> list[tuple[str, Any]]:
    make = recopt.Optimizer
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    linear = nn.Linear(2, 2)
    done = linear(torch.ones(2)).sum()
    done = done * done
    done.backward()

    def lr(value: Any) -> recopt.Optimizer:
        optimizer = make([w], "adam")
        optimizer.param_groups[0]["lr"] = value
        return optimizer

    return [
        ("by its name, opt.step\\(loss=loss\\)", lambda: make([w]).step(torch.tensor(1.0))),  # type: ignore[arg-type]
        ("shape \\(2,\\)", lambda: make([w]).step(loss=torch.ones(2))),
        ("gave str as the loss", lambda: make([w]).step(loss="low")),  # type: ignore[arg-type]
        ("The closure gave NoneType", lambda: make([w], "annealing").step(lambda: None)),
        ("The closure gave dict", lambda: make([w], "blend").step(lambda: {"loss": 1.0})),
        ("valid_loss must be one number", lambda: make([w]).step(valid_loss=1.0)),  # type: ignore[arg-type]
        ("valid_loss must be one number", lambda: make([w]).step(valid=lambda: None)),  # type: ignore[arg-type, return-value]
        ("differentiated already", lambda: make(linear.parameters()).step(valid_loss=done)),
        ("not 5", lambda: make([w], 5)),  # type: ignore[arg-type]
        ("a list of them, not <class", lambda: make([w], torch.optim.Adam)),  # type: ignore[arg-type]
        ("levels=", lambda: make([w], "adam/sgd", levels={"2": {}})),  # type: ignore[dict-item]
        ("levels=", lambda: make([w], "adam/sgd", levels={2: 3})),  # type: ignore[dict-item]
        ("levels=", lambda: make([w], "adam/sgd", levels=[1])),  # type: ignore[arg-type]
        ("valid_loss=…", lambda: make([w], "adam/sgd", levels={2: {"on": "valid"}})),
        ("trust: it bounds", lambda: make([w], "adam/sgd", levels={1: {"trust": 0.1}})),
        ("seed='x'", lambda: make([w], seed="x")),  # type: ignore[arg-type]
        ("model.parameters\\(\\), not Linear", lambda: make(linear)),  # type: ignore[arg-type]
        ("not NoneType", lambda: make(None)),  # type: ignore[arg-type]
        ("params of group 0", lambda: make([{"params": 5}])),
        ("one with 'param'", lambda: make([{"param": [w]}])),
        ("callback=3", lambda: make([w], callback=3)),  # type: ignore[arg-type]
        ("maximize='yes'", lambda: make([w], maximize="yes")),  # type: ignore[arg-type]
        ("guard='no'", lambda: make([w], guard="no")),  # type: ignore[arg-type]
        ("every=True", lambda: make([w], every=True)),
        ("set to nan", lambda: lr(float("nan")).step()),
        ("set to None", lambda: lr(None).step()),
        ("set to 'a'", lambda: lr("a").step()),
        ("an optimizer of its own", lambda: make([{"params": [w]}, {"params": linear.weight, "stack": "annealing"}])),
        ("an optimizer of its own", lambda: make(linear.named_parameters(), "adam[*weight]+annealing[*bias]")),
        ("use scope='group'", lambda: make([{"params": [w]}, {"params": linear.weight, "maximize": True}], "annealing",
                                           scope="global").step(lambda: 1.0)),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(slips())))
def test_slips_are_answered_in_a_sentence(number: int) -> None:
    match, act = slips()[number]
    with pytest.raises(RecoptError, match=match):
        act()
