"""Means of the points that a level went through, and where rules would have the model used."""

from __future__ import annotations

import copy
import io
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError
from recopt.engine import checkpoint, measure
from recopt.levels.averages import folded, share

from .. import engines

AVERAGED = {1: {"average": True}}
BY_TURNS = {2: {"every": 5, "episode": 10, "stagger": True, "gradient": "unroll"}}


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0, 8.0])
def test_the_mean_has_the_weights_of_its_closed_form(decay: float) -> None:
    """θ_s weighs c_s Π_{r>s} (1 − c_r), which is Γ(s + η) / Γ(s) but for a factor that is the same for all s ≥ 1."""
    count = 30
    points = [torch.randn(4, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(count + 1)]
    mean: list[Tensor] = []
    for s, point in enumerate(points):
        mean = folded(mean, [point], decay, s)
    # The point before the first update has no weight.
    weights = [math.gamma(s + decay) / math.gamma(s) for s in range(1, count + 1)]
    expected = sum(w * p for w, p in zip(weights, points[1:], strict=True)) / sum(weights)
    assert torch.allclose(mean[0], expected, rtol=1e-12)
    assert (share(decay, 0), share(decay, 1)) == (1.0, 1.0)


# in one's own loop


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def train(model: nn.Module, optimizer: recopt.Optimizer, steps: int, first: int = 0) -> list[list[Tensor]]:
    """The parameters after each step."""
    dtype, went = next(model.parameters()).dtype, []
    for step in range(first, first + steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)
        optimizer.zero_grad()
        (model(x).squeeze() - x.sum(1)).square().mean().backward()
        optimizer.step()
        went.append([p.detach().clone() for p in model.parameters()])
    return went


@pytest.mark.parametrize(
    "stack", [None, "adam(lr=0.02)", "sgd(lr=0.05)/hypergradient", "adam[*weight]+sgd(lr=0.01)[*bias]"]
)
def test_a_loop_has_the_mean_of_where_it_went_and_goes_on_as_without(stack: str | None) -> None:
    model, plain = net(), net()
    optimizer = recopt.Optimizer(model.named_parameters(), stack, average=True)
    went = train(model, optimizer, 12)
    assert all(
        torch.equal(a, b)
        for a, b in zip(went[-1], train(plain, recopt.Optimizer(plain.named_parameters(), stack), 12)[-1], strict=True)
    )
    mean: list[Tensor] = []
    for count, point in enumerate(went, 1):
        mean = folded(mean, point, 8.0, count)
    with optimizer.averaged():
        assert torch.is_grad_enabled()
        for p, m in zip(model.parameters(), mean, strict=True):
            assert torch.allclose(p, m, rtol=1e-13, atol=0)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), went[-1], strict=True))
    other = net()
    once = recopt.Optimizer(other.named_parameters(), stack, average=True)
    assert all(
        torch.equal(a, b) for a, b in zip(train(other, once, 15)[-1], train(model, optimizer, 3, 12)[-1], strict=True)
    )


def test_a_state_dict_and_a_copy_have_the_mean() -> None:
    model = net()
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.02)", average=2)
    train(model, optimizer, 6)
    after = net()
    after.load_state_dict(model.state_dict())
    loaded = recopt.Optimizer(after.parameters(), "adam(lr=0.02)", average=2)
    loaded.load_state_dict(optimizer.state_dict())
    pair: Any = copy.deepcopy([model, optimizer])
    found = []
    for its_model, its in ((model, optimizer), (after, loaded), pair):
        train(its_model, its, 4, 6)
        with its.averaged():
            found.append([p.detach().clone() for p in its_model.parameters()])
    for a, b, c in zip(*found, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    with pytest.raises(RecoptError, match=r"average=2.0 on level 1, this optimizer None"):
        recopt.Optimizer(after.parameters(), "adam(lr=0.02)").load_state_dict(optimizer.state_dict())


def test_an_update_that_the_guard_took_back_is_not_in_the_mean() -> None:
    w = nn.Parameter(torch.ones(4))
    optimizer = recopt.Optimizer([w], "adam(lr=0.01)", average=0)
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.01 if step != 20 else 1e4
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        with pytest.warns(RuntimeWarning, match="exploded") if step == 21 else nullcontext():
            optimizer.step(loss=loss)
        assert (w.detach().abs().max() > 10) == (step == 20)
    with optimizer.averaged():
        assert w.detach().abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_means_of_parameters_of_other_kinds(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.ones(300, dtype=dtype))
    optimizer = recopt.Optimizer([w], "sgd(lr=0.001)", average=0)
    for _ in range(10):
        optimizer.zero_grad()
        (w * w.conj()).sum().real.backward()
        optimizer.step()
    last = w.detach().clone()
    with optimizer.averaged():
        # In bfloat16 single steps of 0.002 are lost below 1; in its mean of float32 none is.
        assert w.dtype == dtype
        assert (w.detach().abs() >= last.abs()).all()
    assert torch.equal(w, last)


STACKS = [("adam(lr=0.02)/sgd", True), ("schedule-free(lr=0.1)", False)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize(("stack", "average"), STACKS)
def test_a_state_that_is_saved_at_the_mean_has_the_way_back(stack: str, average: bool, dtype: torch.dtype) -> None:
    def made() -> tuple[nn.Parameter, recopt.Optimizer]:
        w = nn.Parameter(torch.ones(3, dtype=dtype))
        return w, recopt.Optimizer([w], stack, average=average)

    def go(w: nn.Parameter, optimizer: recopt.Optimizer) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            (w * w.conj()).sum().real.backward()
            optimizer.step()

    w, optimizer = made()
    go(w, optimizer)
    trained = w.detach().clone()
    optimizer.eval()
    mean = w.detach().clone()
    assert not torch.equal(trained, mean)
    file = io.BytesIO()
    torch.save([w.detach(), optimizer.state_dict()], file)
    values, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    pairs: list[tuple[Any, Any]] = [made(), made(), copy.deepcopy((w, optimizer))]
    for number, (v, its) in enumerate(pairs[:2]):
        if number:  # whichever is loaded first
            its.load_state_dict(state)
        with torch.no_grad():
            v.copy_(values)
        if not number:
            its.load_state_dict(state)
    for v, its in pairs:
        assert not its.training
        its.eval()
        assert torch.equal(v, mean)
        its.train()
        assert torch.equal(v, trained)
        go(v, its)
    optimizer.train()
    go(w, optimizer)
    assert all(torch.equal(v, w) for v, _ in pairs)
    assert all(its.hyperparameters() == optimizer.hyperparameters() for _, its in pairs)
    del state["state"][0]["recopt.home"]
    with pytest.raises(RecoptError, match="'0:recopt.home' is missing"):
        made()[1].load_state_dict(state)


def test_where_no_mean_is_kept_eval_moves_nothing() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w])
    optimizer.eval()
    w.sum().backward()
    optimizer.step()
    assert optimizer.training


def test_a_copy_that_is_made_inside_trains_on() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w], "sgd(lr=0.1)", average=True)
    w.sum().backward()
    optimizer.step()
    with optimizer.averaged():
        other: Any = copy.deepcopy((w, optimizer))
    other[1].train()
    for v, its in ((w, optimizer), other):
        v.grad = torch.ones(3)
        its.step()
    assert torch.equal(w, other[0])


def test_what_cannot_be_averaged_is_refused() -> None:
    w = nn.Parameter(torch.ones(3))
    with (
        pytest.raises(RecoptError, match="No mean is kept here: build the optimizer with average=True"),
        recopt.Optimizer([w]).averaged(),
    ):
        pass
    optimizer = recopt.Optimizer([w], average=True)
    w.sum().backward()
    saved = optimizer.state_dict()
    with optimizer.averaged():
        for inside in (
            optimizer.step,
            lambda: optimizer.averaged().__enter__(),
            lambda: optimizer.load_state_dict(saved),
            optimizer.train,
        ):
            with pytest.raises(
                RecoptError, match=r"opt\.\w+\(\) inside opt.averaged\(\), where the model is at its mean"
            ):
                inside()
    optimizer.step()
    optimizer.eval()
    with pytest.raises(
        RecoptError, match=r"in eval mode, where the model is at its mean or best point: call opt.train"
    ):
        optimizer.step()
    optimizer.train()
    for stack, given, words in (
        ("annealing", {"average": True}, "zero-order, which keeps no mean here"),
        ("schedule-free", {"average": True}, "'schedule_free' keeps a mean of its own: drop 'average'"),
        ("adam/sgd", {"levels": {2: {"average": True}}}, "set it on level 1"),
        ("adam", {"average": -1}, "average=-1 must be True, False or the decay"),
        ("adam", {"average": "yes"}, "average='yes' must be True, False or the decay"),
    ):
        with pytest.raises(RecoptError, match=words):
            recopt.Optimizer([w], stack, **given)  # type: ignore[arg-type]


# schedule-free, which keeps a mean of its own


def test_schedule_free_is_used_at_its_mean() -> None:
    """x and z by the recursion of 2405.15682, algorithm 1, with Adam's denominator; the loop holds y."""
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = recopt.Optimizer([w], "schedule-free(lr=0.1)")
    x = z = w.detach().clone()
    square = torch.zeros(2, dtype=torch.float64)
    for t in range(1, 9):
        optimizer.zero_grad()
        (w**2).sum().backward()
        assert w.grad is not None
        square = 0.999 * square + 0.001 * w.grad**2
        z = z - 0.1 * w.grad / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        x = x + (z - x) / t
        optimizer.step()
        assert torch.allclose(w, 0.1 * z + 0.9 * x, rtol=1e-12)
        with optimizer.averaged():
            assert torch.allclose(w, x, rtol=1e-12)


# in the engine


def ends(made: Any) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in model.parameters()] for model in measure.models(made)]


@pytest.mark.parametrize("stack", ["adam(lr=0.02)/sgd", "schedule-free(lr=0.02)/sgd"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_a_run_is_measured_at_the_mean(stack: str, tasks: int) -> None:
    given = AVERAGED if stack.startswith("adam") else {}
    made = engines.engine(engines.Regression(seed=1), stack, given, seed=1, tasks=tasks)
    before = ends(made)
    assert all(torch.equal(a, b) for a, b in zip(before[0], made.family.module(0).parameters(), strict=True))
    means: list[list[Tensor]] = [[] for _ in range(tasks)]
    for count in range(1, 8):
        made.step()
        slot = made.state.slots["task"]
        for n in range(tasks):
            point = [(p[n] if tasks > 1 else p).detach().clone() for p in slot.params]
            means[n] = folded(means[n], point, 8.0, count)
    if not given:
        average = made.state.levels[0].parts[0].strategy["average"]
        means = [[p[n] for p in average] if tasks > 1 else list(average) for n in range(tasks)]
    for found, mean in zip(ends(made), means, strict=True):
        for a, b in zip(found, mean, strict=True):
            assert torch.allclose(a, b, rtol=1e-12)
    plain = engines.engine(engines.Regression(seed=1), stack, seed=1, tasks=tasks)
    plain.run(7)
    for a, b in zip(plain.state.slots["task"].params, made.state.slots["task"].params, strict=True):
        assert torch.equal(a, b)


def test_a_mean_goes_on_from_a_checkpoint_and_begins_again_with_an_episode(tmp_path: Path) -> None:
    levels = {1: {"average": 4}, 2: {"every": 5, "episode": 10, "gradient": "unroll"}}

    def fresh() -> Any:
        return engines.engine(engines.Regression(seed=1), "adam(lr=0.02)/sgd", levels, seed=1)

    made = fresh()
    made.run(7)
    checkpoint.save(made, tmp_path / "c")
    other = fresh()
    checkpoint.load(other, tmp_path / "c")
    for its in (made, other):
        while its.state.step < 10:
            its.step()
        assert its.state.slots["task"].age in (0, 10)
    assert all(torch.equal(a, b) for a, b in zip(ends(made)[0], ends(other)[0], strict=True))
    made.step()
    slot = made.state.slots["task"]
    if slot.age <= 1:
        assert all(torch.equal(a, b) for a, b in zip(ends(made)[0], slot.params, strict=True))
    assert slot.draw == 1


def test_the_drop_in_and_the_engine_have_the_same_mean() -> None:
    task = engines.Regression(seed=1)
    made = engines.engine(task, "adam(lr=0.02)", AVERAGED, seed=1)
    model = copy.deepcopy(made.family.module(0))
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.02)", average=True)
    for step in range(9):
        made.step()
        optimizer.zero_grad()
        task.loss(model, task.batch(step)).backward()
        optimizer.step()
    with optimizer.averaged():
        for p, q in zip(model.parameters(), ends(made)[0], strict=True):
            assert torch.allclose(p, q, rtol=1e-12)


@pytest.mark.parametrize(
    ("stack", "levels", "words"),
    [
        ("adam/sgd", {2: {"average": True}}, "'average' is of what moves the model: set it on level 1"),
        ("schedule-free", AVERAGED, "keeps a mean of its own: drop 'average'"),
        ("adam/sgd", {**AVERAGED, **BY_TURNS}, "the mean of level 1 .*is of tasks of one age"),
    ],
)
def test_graphs_whose_mean_would_mean_nothing_are_refused(stack: str, levels: engines.Settings, words: str) -> None:
    with pytest.raises(RecoptError, match=words):
        engines.engine(engines.Regression(seed=1), stack, levels, seed=1, tasks=4)
