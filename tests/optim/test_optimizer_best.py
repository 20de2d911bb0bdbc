"""recopt.Optimizer keeps the best point by what it is told of held-out data, has the model used there, and goes on."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

from ..loops import X, batches, distance, mlp, model_of, steps, train

Told = list[float]


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def at_best(model: nn.Module, optimizer: recopt.Optimizer) -> list[Tensor]:
    with optimizer.best():
        return values(model)


def move(p: nn.Parameter, optimizer: recopt.Optimizer) -> None:
    p.grad = torch.ones_like(p)
    optimizer.step()


def lowest(told: Told) -> int:
    """The number of the loss at which the running mean is lowest, computed otherwise: as a sum of weights."""
    means = []
    for last in range(1, len(told) + 1):
        weights = [
            1 / min(n, 10) * math.prod(1 - 1 / min(later, 10) for later in range(n + 1, last + 1))
            for n in range(1, last + 1)
        ]
        assert sum(weights) == pytest.approx(1)
        means.append(sum(w * loss for w, loss in zip(weights, told, strict=False)))
    return min(range(len(told)), key=means.__getitem__)


@pytest.mark.parametrize("seed", range(8))
def test_the_point_is_that_of_the_lowest_running_mean(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    bowl = (torch.arange(40) - 22).square() / 400  # it falls, and then rises
    told = (bowl + torch.randn(40, generator=draw) * 0.3).tolist()
    w = nn.Parameter(torch.zeros(1))
    optimizer = recopt.Optimizer([w], "sgd(lr=1)", guard=False)
    for number, loss in enumerate(told):
        with torch.no_grad():
            w.fill_(number)
        optimizer.keep_best(loss if number % 2 else torch.tensor(loss, dtype=torch.float64))
    best = lowest(told)
    assert optimizer.stale == len(told) - 1 - best
    with optimizer.best():
        assert w.item() == best
    assert w.item() == 39


STACKS = [None, "adam/adagrad[lr]", "paced(base=muon)", "schedule-free(lr=0.1)", "learned", "adam/sgd[*]/sgd"]


@pytest.mark.parametrize("stack", STACKS)
def test_telling_and_looking_change_no_step(stack: str | None) -> None:
    ends = []
    for told in (False, True):
        model, data = model_of(), batches()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        losses, there = [], values(model)
        for number in range(12):
            optimizer.observe(1.0)
            losses += train(model, optimizer, 1, data)
            if told:
                optimizer.keep_best(abs(number - 5))
                there = values(model) if not optimizer.stale else there
                assert same(at_best(model, optimizer), there)
        ends.append((losses, values(model), optimizer.hyperparameters()))
        if told:
            assert optimizer.stale == 4, "the mean is lowest after some of the rising losses"
            assert not same(there, values(model))
    assert ends[0][0] == ends[1][0] and same(ends[0][1], ends[1][1]) and ends[0][2] == ends[1][2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("inside", ["", "best", "eval"])
def test_a_saved_state_has_the_best_point_and_the_way_back(inside: str, dtype: torch.dtype) -> None:
    def made() -> Any:
        w = nn.Parameter(torch.ones(3, dtype=dtype))
        return w, recopt.Optimizer([w], "adam(lr=0.1)/sgd")

    def go(w: nn.Parameter, optimizer: recopt.Optimizer, losses: Told) -> list[Any]:
        found: list[Any] = []
        for loss in losses:
            optimizer.zero_grad()
            (w * w.conj()).sum().real.backward()
            optimizer.step()
            optimizer.keep_best(loss)
            found += [optimizer.stale, w.tolist()]
        with optimizer.best():
            return [*found, w.tolist()]

    w, optimizer = made()
    go(w, optimizer, [3.0, 2.0, 1.0, 9.0])
    trained = w.detach().clone()
    with optimizer.best():
        best = w.detach().clone()
        state = copy.deepcopy(optimizer.state_dict()) if inside == "best" else None
    if inside == "eval":
        optimizer.eval(best=True)
    file = io.BytesIO()
    torch.save([best if inside else trained, state or optimizer.state_dict()], file)
    kept, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other = copy.deepcopy((w, optimizer))
    again, resumed = made()
    with torch.no_grad():
        again.copy_(kept)
    resumed.load_state_dict(state)
    assert resumed.training is not bool(inside) and resumed.stale == 1
    for p, its in ((w, optimizer), other, (again, resumed)):
        its.train()
        assert torch.equal(p, trained)
        with its.best():
            assert torch.equal(p, best)
    left = [0.1, 5.0, 0.0, 7.0]
    assert go(w, optimizer, left) == go(again, resumed, left) == go(*other, left)


def test_a_state_without_a_best_point_takes_the_old_one_away() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w])
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.keep_best(1.0)
    told = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    with pytest.raises(RecoptError, match=r"No best point is kept here: .* opt.keep_best\(loss\) while"):
        optimizer.eval(best=True)
    del told["state"][0]["recopt.best"]
    with pytest.raises(RecoptError, match=r"has no copy of it.*call opt.keep_best\(0\) on the new optimizer"):
        optimizer.load_state_dict(told)


def test_one_copy_is_kept_once_something_was_told() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters())
    assert not optimizer._kept.points and not optimizer.stale
    with pytest.warns(RuntimeWarning, match="was told nan, which counts as no improvement"):
        optimizer.keep_best(math.nan)
    assert not optimizer._kept.points and optimizer.stale == 1
    places = []
    for loss in (3.0, 2.0, 1.0):
        steps(model, optimizer, 1)
        optimizer.keep_best(loss)
        places.append([t.data_ptr() for t in optimizer._kept.points.values()])
        assert not optimizer.stale
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == len(list(model.parameters()))


def test_what_is_not_finite_is_never_the_best() -> None:
    w = nn.Parameter(torch.zeros(1))
    optimizer = recopt.Optimizer([w])
    optimizer.keep_best(1.0)
    with torch.no_grad():
        w.fill_(5)
    with pytest.warns(RuntimeWarning, match=r"opt.keep_best\(\) was told -inf") as warned:
        optimizer.keep_best(-math.inf)
    optimizer.keep_best(math.nan)
    optimizer.keep_best(torch.tensor(math.inf))
    assert len(warned) == 1 and warned[0].filename == __file__
    assert optimizer.stale == 3
    with optimizer.best():
        assert w.item() == 0
    optimizer.keep_best(0.5)
    assert optimizer.stale == 0


def test_told_inside_of_averaged_it_is_the_mean_that_is_kept() -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.05)", average=True)
    train(model, optimizer, 5)
    with optimizer.averaged():
        optimizer.keep_best(1.0)
        mean = values(model)
    train(model, optimizer, 5)
    last = values(model)
    assert not same(mean, last)
    assert same(at_best(model, optimizer), mean) and same(values(model), last)


def test_from_the_mean_to_the_best_point_and_back() -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "schedule-free(lr=0.1)")
    train(model, optimizer, 5)
    optimizer.keep_best(1.0)
    kept = values(model)
    train(model, optimizer, 5)
    last = values(model)
    optimizer.eval()
    mean = values(model)
    assert same(at_best(model, optimizer), kept) and same(values(model), mean)
    optimizer.eval(best=True)
    assert same(values(model), kept)
    with optimizer.averaged():
        assert same(values(model), mean)
    assert same(values(model), kept)
    optimizer.eval()
    assert same(values(model), kept), "a trainer that calls eval() leaves it at the best point"
    optimizer.train()
    assert same(values(model), last) and optimizer.training
    with pytest.raises(KeyError), optimizer.best():
        raise KeyError
    assert same(values(model), last) and optimizer.training


def test_a_group_that_comes_later_was_where_it_is() -> None:
    w, v = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.full((2,), 7.0))
    optimizer = recopt.Optimizer([w], "sgd(lr=1)")
    optimizer.keep_best(1.0)
    move(w, optimizer)
    optimizer.add_param_group({"params": [v]})
    for p in (w, v):
        move(p, optimizer)
    with optimizer.best():
        assert w.tolist() == [0, 0] and v.tolist() == [7, 7]
    assert v.tolist() != [7, 7]


def test_other_tensors_in_the_groups_have_no_best_point() -> None:
    optimizer = recopt.Optimizer([nn.Parameter(torch.zeros(2))])
    optimizer.keep_best(1.0)
    optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.ones(2))
    with pytest.raises(RecoptError, match="whose state would be lost"):
        optimizer.keep_best(1.0)


def test_a_search_on_level_1_has_a_best_point() -> None:
    w = nn.Parameter(torch.zeros(5))
    optimizer = recopt.Optimizer([w], "annealing")
    optimizer.keep_best(1.0)
    for _ in range(5):
        optimizer.step(lambda: distance(w))
    assert w.any()
    with optimizer.best():
        assert not w.any()


def test_what_makes_no_sense_is_answered_in_a_sentence() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w], average=True)
    for wrong, words in ((torch.ones(2), r"a tensor of shape \(2,\)"), ("low", "str"), (None, "NoneType")):
        with pytest.raises(RecoptError, match=rf"opt.keep_best\(…\) gave {words} as the loss"):
            optimizer.keep_best(wrong)  # type: ignore[arg-type]
    with pytest.raises(RecoptError, match="No best point is kept here: tell the loss"), optimizer.best():
        pass
    optimizer.keep_best(1)
    with optimizer.best():
        for inside in (
            optimizer.step, optimizer.train, lambda: optimizer.keep_best(0.5), lambda: optimizer.eval(best=True),
            lambda: optimizer.averaged().__enter__(), lambda: optimizer.best().__enter__(),
            lambda: optimizer.load_state_dict({}),
        ):  # fmt: skip
            with pytest.raises(RecoptError, match=r"inside opt.best\(\), where the model is at its best point: leave"):
                inside()
    with optimizer.averaged(), pytest.raises(RecoptError, match=r"opt.best\(\) inside opt.averaged\(\)"):
        optimizer.best().__enter__()
    optimizer.eval(best=True)
    with pytest.raises(RecoptError, match=r"at its mean or best point: call opt.train\(\) first"):
        optimizer.step()


def test_what_python_prints_says_where_the_best_point_is_read() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w])
    assert "best" not in repr(optimizer)
    for loss in (1.0, 2.0, 3.0):
        optimizer.keep_best(loss)
    assert "keeps the best point, told of 2 losses ago: use it inside `with opt.best():`" in repr(optimizer)


def test_few_data_learned_by_heart_end_at_the_good_point() -> None:
    ratios, stopped = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        right = X[:, :3].argmax(1)
        wrong = torch.where(torch.rand(64) < 0.3, (right + 1) % 3, right)  # so that learning by heart does harm
        model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3)).double()
        optimizer = recopt.Optimizer(model.parameters(), steps=300)

        def held_out(model: nn.Module = model, labels: Tensor = wrong) -> float:
            with torch.no_grad():
                return nn.functional.cross_entropy(model(X[40:]), labels[40:]).item()

        at = 0
        for step in range(300):
            rows = torch.randint(40, (16,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), wrong[rows]).backward()
            optimizer.step()
            optimizer.keep_best(held_out())
            at = at or (step if optimizer.stale >= 50 else 0)
        last = held_out()
        with optimizer.best():
            ratios.append(held_out() / last)
        stopped.append(at)
    assert max(ratios) < 0.7 and all(50 < at < 200 for at in stopped)
