"""recopt.Optimizer where torch's optimizers are used: schedules, closures, hooks, compile, AMP, data-parallel."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from ..loops import batches, distance, far, mlp, model_of, steps, train
from ..processes import of_two


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


def test_losses_are_observed_where_the_step_cannot_be_told() -> None:
    ends = []
    for way in ("told", "observed", "returned", "observed and returned"):
        w = nn.Parameter(torch.ones(5))
        optimizer = recopt.Optimizer([w], "learned")
        for _ in range(5):
            optimizer.zero_grad()
            loss = distance(w)
            loss.backward()
            if "observed" in way:
                optimizer.observe(loss)
            if way == "told":
                optimizer.step(loss=loss)
            elif "returned" in way:  # what is observed goes first: a trainer returns the last loss of several
                optimizer.step(partial(float, loss.item() if way == "returned" else 1e3))
            else:
                optimizer.step(lambda: None)
        ends.append(w.tolist())
    assert all(end == ends[0] for end in ends)
    with pytest.raises(RuntimeError, match=r"opt.observe\(loss\) before it"):
        optimizer.step(lambda: None)


def test_several_observed_losses_are_their_mean_and_what_is_not_finite_is_left_out() -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], "adam/annealing")
    for losses, mean in (([1.0, torch.tensor(2.0)], 1.5), ([float("nan"), 4.0], 4.0)):
        for loss in losses:
            optimizer.observe(loss)
        assert optimizer._observed.take() == mean
    assert optimizer._observed.take() is None
    with pytest.raises(ValueError, match="give one number, the loss itself"):
        optimizer.observe(w)


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


@pytest.mark.parametrize("what", ["model", "step"])
def test_compiled(what: str) -> None:
    reference = mlp()
    expected = steps(reference, recopt.Optimizer(reference.parameters(), "adam/sgd"), 10)
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    torch.compiler.reset()
    if what == "model":
        found = steps(torch.compile(model, backend="aot_eager"), optimizer, 10)  # type: ignore[arg-type]
    else:
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
        found = steps(model, optimizer, 10)
    assert found == pytest.approx(expected, rel=1e-5)


def test_grad_scaler_skips_what_overflows() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = torch.randn(16, 6)
    for bad in (False, True, False):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x) - x[:, :3]).float().square().mean()
        scaler.scale(loss * (float("inf") if bad else 1.0)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        values = optimizer.hyperparameters()
        scaler.step(optimizer)
        scaler.update()
        still = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert still == bad
        assert (optimizer.hyperparameters() == values) or not bad
    assert scaler.get_scale() == 2.0**9


SIDE_BY_SIDE = ("adam(lr=0.01)/sgd/sgd", "paced(base=factored)")


def _rank(rank: int) -> Any:
    return [_one_of_two(rank, stack) for stack in SIDE_BY_SIDE]


def _one_of_two(rank: int, stack: str) -> Any:
    torch.manual_seed(rank)
    model = nn.parallel.DistributedDataParallel(mlp())
    optimizer = recopt.Optimizer(model.parameters(), stack)
    data = torch.randn(40, 32, 6, generator=torch.Generator().manual_seed(9))
    for batch in data:
        x = batch[rank * 16 : rank * 16 + 16]
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return optimizer.hyperparameters(), flat.tolist()


@pytest.mark.slow
def test_two_ranks_have_identical_hyperparameters(tmp_path: Path) -> None:
    ones, others = of_two(_rank, tmp_path)
    assert ones == others
    for stack, one in zip(SIDE_BY_SIDE, ones, strict=True):
        model = mlp()
        single = recopt.Optimizer(model.parameters(), stack)
        for x in torch.randn(40, 32, 6, generator=torch.Generator().manual_seed(9)):
            single.zero_grad()
            (model(x) - x[:, :3]).square().mean().backward()
            single.step()
        assert one[0] == pytest.approx(single.hyperparameters(), rel=1e-3)
