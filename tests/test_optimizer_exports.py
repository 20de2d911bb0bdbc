"""A trained stack in any training loop: the drop-in takes what ``recopt export`` wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import recopt
from recopt import Graph, Level, RecoptError
from recopt.engine import Engine
from recopt.export import read_export, write_export
from recopt.tasks import make


def exported(stack: str, folder: Path) -> Path:
    """The export of a short run of ``stack`` on digits."""
    result = recopt.run("digits(net=logistic)", stack, steps=41, track=False)
    write_export(result.engine, result.spec, folder)
    return folder


@pytest.mark.parametrize("stack", ["adam(lr=0.01)/hypergradient", "lstm/adam(lr=0.01)"])
def test_an_exported_rule_makes_the_updates_that_it_makes_in_the_engine(stack: str, tmp_path: Path) -> None:
    folder = exported(stack, tmp_path)
    levels, strategies = read_export(folder)
    name = levels[0].by
    task = make("digits", seed=7, net="logistic")
    graph = Graph([Level(moves="task", by=name, guard=False)], {name: strategies[name]})
    losses: list[float] = []
    engine = Engine(
        task, graph, seed=7, sink=lambda n, _, values: losses.append(float(values["loss"])) if n == 0 else None
    )
    engine.run(12)
    engine.hand_on(engine.state)
    model = engine.evaluator.module(0)
    optimizer = recopt.Optimizer(model.parameters(), str(folder))
    for step in range(12):
        loss = task.loss(model, task.batch(step))
        assert float(loss.detach()) == pytest.approx(losses[step], rel=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_a_tuned_rate_is_taken_along(tmp_path: Path) -> None:
    folder = exported("adam(lr=0.01)/hypergradient", tmp_path)
    tuned = float(read_export(folder)[1]["adam"].lr.detach())  # type: ignore[attr-defined]
    found = recopt.Optimizer([torch.nn.Parameter(torch.ones(3))], folder).hyperparameters()
    assert tuned != pytest.approx(0.01)
    assert any(value == pytest.approx(tuned) for value in found.values())


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecoptError, match=r"no export of recopt.*recopt export RUN DIR"):
        recopt.Optimizer([torch.nn.Parameter(torch.ones(3))], str(tmp_path))
    with pytest.raises(RecoptError, match=r"is a folder, not a stack"):
        recopt.run("quadratic", str(tmp_path), track=False)
