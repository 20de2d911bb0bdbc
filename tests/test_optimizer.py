"""recopt.Optimizer: equality of its two paths, with torch.optim and with the published towers; torch's own habits."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError
from recopt.plugins import load_strategy

X = torch.randn(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(2))
BOTTOMS = [
    "sgd", "sgd(momentum=0.9)", "sgd(momentum=0.9,nesterov=true,weight_decay=0.01)", "adam", "adam(weight_decay=0.1)",
    "adam(weight_decay=0.1,decoupled=false)", "rmsprop", "rmsprop(momentum=0.5)", "rmsprop(centered=true)",
    "adagrad", "adagrad(initial=0.1,lr_decay=0.01)",
]  # fmt: skip
UPPERS = ["", "/sgd[*]", "/adam[*]", "/sgd/sgd", "/adam(weight_decay=0.01)[*]/adam[*]/adam[*]",
          "/rmsprop[*]/adagrad(initial=0.2)[*]/sgd(momentum=0.5)[*]",
          "/rmsprop(momentum=0.3)[*]/sgd(momentum=0.5,nesterov=true)[*]/sgd[*]",
          "/hypergradient[*]/sgd(lr=0.01)"]  # fmt: skip


def model_of(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batches(seed: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(0, 64, (16,), generator=draw)
        yield X[rows], Y[rows]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, data: Any = None, scale: float = 1.0
) -> list[float]:
    losses = []
    for x, y in itertools.islice(data or batches(), steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y) * scale
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def far(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("upper", UPPERS)
@pytest.mark.parametrize("bottom", BOTTOMS)
def test_closed_forms_equal_the_tape(bottom: str, upper: str) -> None:
    found = []
    for fused in (True, False):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), bottom + upper, fused=fused)
        found.append((train(model, optimizer, 25), optimizer.hyperparameters()))
    (fast, values), (taped, others) = found
    assert far(fast, taped) < 1e-12
    assert values == pytest.approx(others, rel=1e-8)


def test_the_closed_forms_are_used_where_they_are_offered() -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "adam/adam/sgd")
    train(model, optimizer, 1)
    rungs = optimizer._towers.all[0].rungs
    kinds = [type(r.cohorts[0].mover if hasattr(r, "cohorts") else r.mover).__name__ for r in rungs]
    assert kinds == ["KernelMover", "FormulaMover", "FormulaMover"]


@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_sgd_towers_are_the_published_ones_bit_for_bit(height: int) -> None:
    gdtuo = pytest.importorskip("gradient_descent_the_ultimate_optimizer.gdtuo")
    rates = [0.05, 0.01, 0.01, 0.001][:height]
    torch.set_default_dtype(torch.float64)
    try:
        tower = gdtuo.NoOpOptimizer()
        for rate in reversed(rates):
            tower = gdtuo.SGD(rate, optimizer=tower)
        wrapped = gdtuo.ModuleWrapper(model_of(), optimizer=tower)
        wrapped.initialize()
        theirs = []
        for x, y in itertools.islice(batches(), 200):
            wrapped.begin()
            loss = nn.functional.cross_entropy(wrapped.forward(x), y)
            wrapped.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss.backward(create_graph=True)
            wrapped.step()
            theirs.append(loss.item())
        for fused in (False, True):
            sgd = load_strategy("sgd")
            model, raw = model_of(), [sgd(lr=rate, domains={"lr": "real"}) for rate in rates]
            optimizer = recopt.Optimizer(model.parameters(), raw, normalize="none", guard=False, fused=fused)
            ours = train(model, optimizer, 200)
            if fused:
                assert far(ours, theirs) < 1e-12
            else:
                assert ours == theirs
    finally:
        torch.set_default_dtype(torch.float32)


ALIKE = [
    ("sgd(lr=0.1)", lambda p: torch.optim.SGD(p, lr=0.1)),
    ("sgd(lr=0.1,momentum=0.9)", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    ("sgd(lr=0.1,momentum=0.9,nesterov=true,weight_decay=0.01)",
     lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    ("adam", torch.optim.Adam),
    ("adam(weight_decay=0.1)", lambda p: torch.optim.AdamW(p, weight_decay=0.1)),
    ("adam(weight_decay=0.1,decoupled=false)", lambda p: torch.optim.Adam(p, weight_decay=0.1)),
    ("rmsprop", torch.optim.RMSprop),
    ("rmsprop(centered=true,momentum=0.5)", lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5)),
    ("adagrad(initial=0.1)", lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.1)),
]  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("stack", "make"), ALIKE, ids=[s for s, _ in ALIKE])
def test_height_one_is_torch_optim(stack: str, make: Any, fused: bool) -> None:
    model, other = model_of(), model_of()
    ours = train(model, recopt.Optimizer(model.parameters(), stack, fused=fused), 100)
    assert far(ours, train(other, make(other.parameters()), 100)) < 1e-12


@pytest.mark.parametrize(
    ("stack", "whole"),
    [
        ("adam", "adam/adam(lr=0.05)[lr]/adam(lr=0.05)[lr]"),
        ("adam/sgd[*]", "adam/sgd[*]/sgd(lr=0.05)[*]"),
        ("adam(lr=0.1)/adagrad[lr]", "adam(lr=0.1)/adagrad(lr=1)[lr]/adagrad(lr=1)[lr]"),
        ("sgd[0]", "sgd[0]/sgd(lr=0.05)[lr]/sgd(lr=0.05)[lr]"),
    ],
)
def test_depth_repeats_the_last_strategy_and_what_it_moves(stack: str, whole: str) -> None:
    optimizer = recopt.Optimizer([("0", nn.Parameter(torch.ones(2)))], stack, depth=3)
    assert optimizer.describe() == [whole]


@pytest.mark.parametrize("stack", ["adam(eps=0)/sgd/sgd", "adam(eps=0)/adam"])
@pytest.mark.parametrize("power", [-6, 6])
def test_the_loss_scale_changes_nothing(stack: str, power: int) -> None:
    found = []
    for scale in (1.0, 10.0**power):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        found.append(([v / scale for v in train(model, optimizer, 60, scale=scale)], optimizer.hyperparameters()))
    assert far(found[0][0], found[1][0]) < 1e-9
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_windows_are_the_suffix_sums(every: int) -> None:
    """h for log lr of SGD over a window is −lr/K Σ_t ⟨g_t, Σ_{s>t} g_s⟩, and level 2 moves once a window."""
    model = model_of()
    level2 = load_strategy("sgd")(lr=0.5)
    bottom = load_strategy("sgd")(lr=0.1)
    optimizer = recopt.Optimizer(model.parameters(), [bottom, level2], every=every, normalize="none")
    coordinate, window = torch.tensor(0.1, dtype=torch.float64).log(), []
    for x, y in itertools.islice(batches(), 3 * every + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        window.append(flat)
        optimizer.step()
        if len(window) == every + 1:
            total = sum(window[t] @ sum(window[t + 1 :]) for t in range(every))
            coordinate = coordinate + 0.5 * coordinate.exp() * total / every
            window = [flat]
        assert optimizer.hyperparameters()["sgd1.lr"] == pytest.approx(float(coordinate.exp()), rel=1e-9)


STACKS = ["sgd/sgd", "adam/sgd[*]/sgd", "adam(weight_decay=0.1)/rmsprop/adagrad", "rmsprop(centered=true)/adam[*]",
          "adagrad/hypergradient/sgd"]  # fmt: skip


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("stack", STACKS)
def test_state_dict_continues_exactly(stack: str, fused: bool, every: int) -> None:
    model, data = model_of(), batches()
    optimizer = recopt.Optimizer(model.parameters(), stack, fused=fused, every=every)
    train(model, optimizer, 8, data)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    left = list(itertools.islice(data, 8))
    expected = train(model, optimizer, 8, left)
    model = model_of()
    other = recopt.Optimizer(model.parameters(), stack, fused=fused, every=every)
    train(model, other, 3)
    model.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    assert train(model, other, 8, left) == expected
    assert other.hyperparameters() == optimizer.hyperparameters()


@pytest.mark.parametrize("fused", [True, False])
def test_deepcopy_goes_on_alike_and_apart(fused: bool) -> None:
    model, data = model_of(), batches()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd", fused=fused)
    train(model, optimizer, 5, data)
    if not fused:
        optimizer._towers.all[0].bottoms[0].forget()  # a tape is of this process; a copy of one starts a new window
    other_model, other = copy.deepcopy((model, optimizer))
    left = list(itertools.islice(data, 5))
    assert train(model, optimizer, 5, left) == train(other_model, other, 5, left)
    assert other.param_groups[0]["params"][0] is next(iter(other_model.parameters()))


def test_schedulers_multiply_the_tuned_rate_and_come_back_from_their_state() -> None:
    model, other = model_of(), model_of()
    plain = torch.optim.Adam(other.parameters(), lr=1e-2)
    ours = recopt.Optimizer(model.parameters(), "adam(lr=1e-2)")
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=30) for o in (ours, plain)]
    data, again = batches(), batches()
    for _ in range(30):
        assert far(train(model, ours, 1, data), train(other, plain, 1, again)) < 1e-12
        for schedule in schedules:
            schedule.step()
    assert ours.hyperparameters()["adam.lr"] == pytest.approx(1e-2)
    assert ours.param_groups[0]["lr"] == pytest.approx(plain.param_groups[0]["lr"], abs=1e-12)
    copy_of = recopt.Optimizer(model.parameters(), "adam(lr=1e-2)")
    resumed = torch.optim.lr_scheduler.CosineAnnealingLR(copy_of, T_max=30)
    resumed.load_state_dict(schedules[0].state_dict())
    copy_of.load_state_dict(ours.state_dict())
    assert copy_of.param_groups[0]["lr"] == ours.param_groups[0]["lr"]
    assert resumed.last_epoch == 30


def test_a_level_above_sees_the_scheduled_updates() -> None:
    found = []
    for lr, factor in ((0.2, 1.0), (0.4, 0.5)):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), f"sgd(lr={lr})/sgd(lr=0.1)", normalize="none")
        optimizer.param_groups[0]["lr"] *= factor
        train(model, optimizer, 20)
        found.append(optimizer.hyperparameters()["sgd.lr"] * factor)
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] != pytest.approx(0.2, rel=1e-3)


def test_callback_closure_and_hooks() -> None:
    model, seen, order = model_of(), [], []
    optimizer = recopt.Optimizer(
        model.parameters(), "adam/sgd", callback=lambda step, values: seen.append((step, values)), log_every=2
    )
    optimizer.register_step_pre_hook(lambda *_: order.append("before"))
    optimizer.register_step_post_hook(lambda *_: order.append("after"))
    data = batches()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(next(data)[0]), next(data)[1])
        loss.backward()
        return loss

    for _ in range(4):
        assert isinstance(optimizer.step(closure), Tensor)
    assert [step for step, _ in seen] == [2, 4]
    assert seen[-1][1] == optimizer.hyperparameters()
    assert order == ["before", "after"] * 4


def test_maximize_climbs_the_negative_loss() -> None:
    model, other = model_of(), model_of()
    down = train(model, recopt.Optimizer(model.parameters(), "adam/sgd"), 20)
    up = train(other, recopt.Optimizer(other.parameters(), "adam/sgd", maximize=True), 20, scale=-1.0)
    assert [-v for v in up] == down


def test_accumulated_gradients_are_one_gradient() -> None:
    found = []
    for parts in (1, 4):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
        for x, y in itertools.islice(batches(), 10):
            optimizer.zero_grad()
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(a), b) / parts).backward()
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adagrad", "hypergradient"])
def test_every_first_order_strategy_behaves_as_an_optimizer(name: str) -> None:
    """Defaults reach the groups, repr, copies of the state, one closure call per step, no change without gradients."""
    model = model_of()
    kwargs: Any = {"levels": {1: {"normalize": "none"}}} if name == "hypergradient" else {}
    optimizer = recopt.Optimizer(model.parameters(), f"{name}/sgd", **kwargs)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert "maximize: False" in repr(optimizer)
    train(model, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    calls = []
    optimizer.step(lambda: calls.append(0) or torch.zeros(()))
    assert calls == [0]


def test_a_foreign_state_dict_is_refused_and_changes_nothing() -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    train(model, optimizer, 3)
    before = optimizer.hyperparameters()
    with pytest.raises(RecoptError, match="saved by another optimizer"):
        optimizer.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())
    with pytest.raises(RecoptError, match=r"of the stack adam/sgd.*/sgd.*, but this optimizer is adam/sgd"):
        optimizer.load_state_dict(recopt.Optimizer(model.parameters(), "adam/sgd/sgd").state_dict())
    other = nn.Linear(2, 2)
    with pytest.raises(RecoptError, match="other shapes"):
        optimizer.load_state_dict(recopt.Optimizer(other.parameters(), "adam/sgd").state_dict())
    taped = recopt.Optimizer(model.parameters(), "adam/sgd", fused=False)
    train(model, taped, 1)
    with pytest.raises(RecoptError, match="saved with fused=False"):
        optimizer.load_state_dict(taped.state_dict())
    assert optimizer.hyperparameters() == before
