"""The way of a step, as CONTRIBUTING.md tells it: from the tower to what moves a level, in at most four files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import recopt
from recopt.rules.columns import ColumnMover
from recopt.rules.numbers import NumberMover
from recopt.rules.tensors import TensorMover

PACKAGE = Path(recopt.__file__).parent


def files_to(frame: Any) -> set[str]:
    """The files of the calls that led from the tower to ``frame``."""
    found = set()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        found.add(path.relative_to(PACKAGE).with_suffix("").as_posix() if PACKAGE in path.parents else path.name)
        if frame.f_code.co_qualname == "Tower.down":
            return found
        frame = frame.f_back
    raise AssertionError("not called by the tower")


@pytest.mark.parametrize(
    ("kind", "fused", "way"),
    [
        (NumberMover, True, {"core/tower", "core/down", "rules/numbers"}),
        (ColumnMover, True, {"core/tower", "core/down", "core/bottom", "rules/columns"}),
        (TensorMover, False, {"core/tower", "core/down", "core/forward", "rules/tensors"}),
    ],
)
def test_a_step_is_followed_through_four_files(kind: Any, fused: bool, way: set[str], monkeypatch: Any) -> None:
    ways, step = [], kind.step

    def noted(*args: Any) -> Any:
        ways.append({kind.__module__.removeprefix("recopt.").replace(".", "/"), *files_to(sys._getframe(1))})
        return step(*args)

    monkeypatch.setattr(kind, "step", noted)
    w = nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w], "adam/sgd", fused=fused)
    for _ in range(3):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
    assert ways
    assert all(found == way for found in ways)
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert all(f"`{name}.py`" in text for name in way)
