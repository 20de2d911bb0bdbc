"""Refusals are the built-in errors that other people's handlers and test suites expect."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError


def test_bad_values_are_value_errors_and_bad_moments_runtime_errors() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="must be a number above 0") as value:
        recopt.Optimizer([p], "adam", lr=-1.0)
    assert isinstance(value.value, RecoptError)
    optimizer = recopt.Optimizer([p], "adam")
    p.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse") as state:
        optimizer.step()
    assert isinstance(state.value, RecoptError)


@pytest.mark.parametrize(
    ("text", "ours"), [("adam(learning_rate=0.1)", "lr"), ("adam(epsilon=1)", "eps"), ("sgd(l2=1)", "weight_decay")]
)
def test_names_of_other_libraries_are_answered_with_ours(text: str, ours: str) -> None:
    with pytest.raises(RecoptError, match=f"Did you mean '{ours}'"):
        recopt.strategy(text)
