"""recopt.Optimizer against the engine: the same levels over the same batches give the same losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import recopt

from .. import engines

STEPS = 40
CASES: list[tuple[str, dict[int, dict[str, Any]], bool]] = [
    ("sgd(lr=0.1)/sgd", {}, True),
    ("adam/sgd[*]/sgd", {}, True),
    ("adam/adam[*]/adam[*]", {}, True),
    ("adam/adam/adam", {}, True),
    ("rmsprop(momentum=0.5)/adagrad(lr=0.01)[*]/sgd(momentum=0.5)[*]", {}, True),
    ("adam(weight_decay=0.1)/hypergradient[*]/sgd(lr=0.01)", {}, False),
    ("sgd(lr=0.1)/sgd/sgd", {2: {"normalize": "log_sign"}, 3: {"normalize": "unit"}}, True),
    ("adam/sgd[*]", {1: {"normalize": "rms"}, 2: {"normalize": "clip"}}, True),
    ("adam/adam", {1: {"normalize": "clip_each"}, 2: {"normalize": "clip_each"}}, True),
    ("adam/adagrad(lr=1)[lr]/sgd", {}, True),
    ("adam/adam[*]", {2: {"every": 4}}, True),
    ("adam/sgd/sgd", {2: {"every": 3, "objective": "last"}, 3: {"every": 2}}, True),
    ("sgd@a(lr=0.1)/sgd@a", {2: {"trust": 0.05}}, True),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("stack", "settings", "exact"), CASES, ids=[f"{c[0]}-{n}" for n, c in enumerate(CASES)])
def test_the_drop_in_is_the_engine(stack: str, settings: dict[int, dict[str, Any]], exact: bool, fused: bool) -> None:
    task = engines.Regression(seed=0)
    made = engines.engine(task, stack, {0: {"guard": False}, **settings})
    model = task.model().double()
    with torch.no_grad():
        for p, value in zip(model.parameters(), engines.params(made), strict=True):
            p.copy_(value)
    made.run(STEPS)
    optimizer = recopt.Optimizer(model.parameters(), stack, levels=settings, guard=False, fused=fused)
    ours = []
    for index in range(STEPS):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(index))
        loss.backward()
        optimizer.step()
        ours.append(loss.item())
    theirs = engines.losses(made)[:STEPS]
    assert ours == pytest.approx(theirs, rel=1e-9 if exact else 1e-7)
