"""The history of an optimizer's hyperparameters: its columns, its picture, and what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError


def trained(history: recopt.History, steps: int, **more: object) -> recopt.Optimizer:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = recopt.Optimizer(model.parameters(), "adam/adagrad[lr]", callback=history, **more)  # type: ignore[arg-type]
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.ones(4, 3)) - 2).square().mean().backward()
        optimizer.step()
    return optimizer


def test_a_history_has_each_hyperparameter_at_each_step_that_is_logged() -> None:
    history = recopt.History()
    optimizer = trained(history, 12, log_every=3)
    steps, rates = history["adam.lr"]
    assert steps.tolist() == [3, 6, 9, 12] and len(set(rates)) == 4
    assert {key: history[key][1][-1] for key in optimizer.hyperparameters()} == optimizer.hyperparameters()
    with pytest.raises(RecoptError, match="Did you mean 'adam.lr'"):
        history["adam.lrr"]


def test_its_columns_share_their_steps_and_have_gaps_where_there_is_no_number() -> None:
    history = recopt.History()
    history(1, {"lr": 0.1})
    history(2, {"lr": 0.2, "loss": 5.0})
    history(3, {"loss": 4.0})
    found = history.columns()
    assert found["step"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found["lr"], [0.1, 0.2, math.nan])
    np.testing.assert_array_equal(found["loss"], [math.nan, 5.0, 4.0])


def test_what_goes_back_to_a_checkpoint_replaces_what_came_after_it() -> None:
    history = recopt.History()
    optimizer = trained(history, 0)
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.ones_like(weight)

    def step(times: int) -> None:
        for _ in range(times):
            optimizer.step()

    step(4)
    model, saved = weight.detach().clone(), optimizer.state_dict()
    saved = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, saved)
    step(5)
    weight.data.copy_(model)
    optimizer.load_state_dict(saved)
    weight.grad = -torch.ones_like(weight)
    step(2)
    steps, rates = history["adam.lr"]
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert rates[-1] == optimizer.hyperparameters()["adam.lr"]


def test_its_picture_has_a_panel_for_each_number_that_moved_and_names_the_others() -> None:
    history = recopt.History()
    trained(history, 8)
    made = history.plot()
    assert [axes.get_title(loc="left") for axes in made.axes] == ["adam.lr"]
    assert "adam.beta1 0.9" in made._supxlabel.get_text()
    assert history._repr_html_().startswith("<svg")
    assert "adam.lr" in repr(history) and "8 steps to 8" in repr(history)
    assert "nothing yet" in repr(recopt.History()) and recopt.History().plot().axes == []
