"""recopt.Optimizer saved, loaded and copied: it goes on exactly, and what does not fit is refused."""

from __future__ import annotations

import copy
import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError

from ..loops import batches, distance, model_of, train

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
    other_model, other = copy.deepcopy((model, optimizer))
    left = list(itertools.islice(data, 5))
    assert train(model, optimizer, 5, left) == train(other_model, other, 5, left)
    assert other.param_groups[0]["params"][0] is next(iter(other_model.parameters()))


def test_a_foreign_state_dict_is_refused_and_changes_nothing() -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    train(model, optimizer, 3)
    before = optimizer.hyperparameters()
    with pytest.raises(RecoptError, match="saved by another optimizer"):
        optimizer.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())
    with pytest.raises(RecoptError, match=r"of the stack adam/sgd.*/sgd.*, but this optimizer is adam/sgd"):
        optimizer.load_state_dict(recopt.Optimizer(model.parameters(), "adam/sgd/sgd").state_dict())
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    with pytest.raises(RecoptError, match="other shapes"):
        optimizer.load_state_dict(recopt.Optimizer(other.parameters(), "adam/sgd").state_dict())
    taped = recopt.Optimizer(model.parameters(), "adam/sgd", fused=False)
    train(model, taped, 1)
    with pytest.raises(RecoptError, match="saved with fused=False"):
        optimizer.load_state_dict(taped.state_dict())
    assert optimizer.hyperparameters() == before


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
    text = saved["param_groups"][0]["recopt"].replace('"steps": 1', '"steps": 2')
    for match, state, optimizer in [
        ("every=1 on level 2, this optimizer 3", saved, made(every=3)),
        ("normalize=rms_all on level 2", saved, made(normalize="rms")),
        ("in torch.float32, not torch.float64", saved, made(nn.Parameter(torch.ones(5, dtype=torch.float64)))),
        ("not NoneType", None, made()),
        ("not str", "adam", made()),
        ("another optimizer", torch.optim.Adam([w]).state_dict(), made()),
        ("not what was written", {**saved, "param_groups": [{**saved["param_groups"][0], "recopt": text}]}, made()),
    ]:
        before = optimizer.hyperparameters()
        with pytest.raises(RecoptError, match=match):
            optimizer.load_state_dict(state)  # type: ignore[arg-type]
        assert optimizer.hyperparameters() == before


@pytest.mark.parametrize(("value", "guard"), [("nan", True), ("nan", False), ("inf", True), ("inf", False)])
def test_what_is_not_finite_is_told_when_it_is_loaded_and_refused_where_guards_let_no_such_in(
    value: str, guard: bool
) -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd", guard=guard)
    train(model, optimizer, 2)
    saved, before = copy.deepcopy(optimizer.state_dict()), optimizer.hyperparameters()
    name = next(key for key, t in saved["state"][1].items() if isinstance(t, torch.Tensor) and t.ndim)
    saved["state"][1][name][0] = float(value)
    train(model, optimizer, 1)
    if guard and value == "nan":
        now = optimizer.hyperparameters()
        with pytest.raises(RecoptError, match=rf"'{name}' of parameter 1 is not a number"):
            optimizer.load_state_dict(saved)
        assert optimizer.hyperparameters() == now
        return
    with pytest.warns(RuntimeWarning, match=rf"loaded as it is, but '{name}' of parameter 1 is not finite") as told:
        optimizer.load_state_dict(saved)
    assert told[0].filename == __file__ and optimizer.hyperparameters() == before


def test_the_state_of_a_run_that_diverged_is_loaded_with_a_warning() -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], "adam/sgd", guard=False)
    w.grad = torch.full_like(w, math.nan)
    optimizer.step()
    with pytest.warns(RuntimeWarning, match="of parameter 0 is not finite: its run had diverged"):
        recopt.Optimizer([w], "adam/sgd", guard=False).load_state_dict(optimizer.state_dict())
