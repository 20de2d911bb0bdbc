"""A trained stack in any training loop: the drop-in takes what ``recopt export`` wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import recopt
from recopt import Graph, Level, RecoptError
from recopt.engine.engine import Engine
from recopt.running.export import write_export
from recopt.stacks.fetch import read_export
from recopt.tasks import make
from recopt.tracking.mlflow.runs import register


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
        task, graph, seed=7, dtype=torch.float64,
        sink=lambda n, _, values: losses.append(float(values["loss"])) if n == 0 else None,
    )  # fmt: skip
    engine.run(12)
    engine.flush()
    model = engine.family.module(0)
    optimizer = recopt.Optimizer(model.parameters(), str(folder))
    for step in range(12):
        loss = task.loss(model, engine.family.place(task.batch(step)))
        assert float(loss.detach()) == pytest.approx(losses[step], rel=1e-12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_an_export_is_called_by_its_name_and_tells_its_hyperparameters(tmp_path: Path) -> None:
    folder = exported("lstm/adam(lr=0.01)", tmp_path / "my-rule")
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w], folder)
    assert optimizer.describe() == ["my_rule"]
    scale = float(read_export(folder)[1]["lstm"].scale.detach())  # type: ignore[attr-defined]
    assert optimizer.hyperparameters() == {"my_rule.scale": pytest.approx(scale, rel=1e-6)}
    shipped = recopt.Optimizer([w], "learned").hyperparameters()
    assert set(shipped) == {"learned.scale", "learned.decay", "learned.ridge"}


def test_a_tuned_rate_is_taken_along(tmp_path: Path) -> None:
    folder = exported("adam(lr=0.01)/hypergradient", tmp_path)
    tuned = float(read_export(folder)[1]["adam"].lr.detach())  # type: ignore[attr-defined]
    found = recopt.Optimizer([torch.nn.Parameter(torch.ones(3))], folder).hyperparameters()
    assert tuned != pytest.approx(0.01)
    assert any(value == pytest.approx(tuned) for value in found.values())


def weights(stack: str | Path, **options: Any) -> list[float]:
    """The point after three steps from ones."""
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w], stack, **options)
    for _ in range(3):
        optimizer.zero_grad()
        (w**2 * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        optimizer.step()
    return w.tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recorded run, whose export is a strategy by name there and a registered model."""
    folder = tmp_path_factory.mktemp("place")
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=40, settings=["level2.every=5"])
        assert result.folder is not None and result.run_id is not None
        shutil.copytree(result.folder / "export", "strategies/learned-tiny")
        register(result.folder / "export", "tiny", "best", run=result.run_id)
        (folder / "notes").mkdir()
        (folder / "notes/readme.txt").write_text("no export")
        register(folder / "notes", "notes", run=result.run_id)
        (folder / "run").write_text(result.run_id)
    finally:
        os.chdir(before)
    return folder


def test_a_rule_by_its_name_or_by_its_address_in_a_store_is_the_exported_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    run = (place / "run").read_text()
    expected = weights(place / "strategies/learned-tiny")
    assert expected != weights("lstm(hidden=4)")
    for stack in ("learned-tiny", "learned_tiny", "models:/tiny@best", "models:/tiny/1", "models:/tiny",
                  f"runs:/{run}", f"runs:/{run[:12]}", f"runs:/{run}/export"):  # fmt: skip
        assert weights(stack) == expected, stack
    monkeypatch.chdir(place.parent)
    store = f"sqlite:///{place}/runs/mlflow.db"
    assert weights("models:/tiny@best", store=store) == expected
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert weights("models:/tiny@best") == expected
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([{"params": [w], "stack": f"runs:/{run}"}], "sgd")
    assert optimizer.param_groups[0]["stack"] == f"runs:/{run}"
    assert optimizer.describe() == recopt.Optimizer([w], f"runs:/{run}").describe()


def test_a_rule_by_its_name_may_be_tuned_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([w], "learned-tiny/sgd", scope="tensor")
    for _ in range(3):
        optimizer.zero_grad()
        (w**2).sum().backward()
        optimizer.step()
    assert optimizer.describe() == ["learned-tiny/sgd"]
    state = optimizer.state_dict()
    again = recopt.Optimizer([w], "learned-tiny/sgd", scope="tensor")
    again.load_state_dict(state)
    assert again.hyperparameters() == optimizer.hyperparameters()


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        ("models:/tinny@best", "There is no model 'tinny' in .*Did you mean 'tiny'"),
        ("models:/tiny@bets", "The model 'tiny' has no alias 'bets'. Did you mean 'best'"),
        ("models:/tiny/7", "The model 'tiny' has no version 7; its latest is 1"),
        ("models:/", "is not models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/notes", "'models:/notes' is no export of recopt: it has no stack.json"),
        ("runs:/" + "f" * 32, "There is no run ffff.*'recopt runs' lists them"),
        ("runs:/ff ff", "is not models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID or runs:/ID/PATH"),
        ("runs:/RUN/nothing", "Run [0-9a-f]* has no artifact 'nothing'"),
        ("runs:/RUN/spec.yaml", "spec.yaml' is no export of recopt"),
        ("learned-tinny", "Unknown strategy 'learned-tinny' in 'learned-tinny'. Did you mean 'learned-tiny'"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(
    place: Path, stack: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(RecoptError, match=words) as caught:
        weights(stack.replace("RUN", (place / "run").read_text()))
    assert "\n" not in str(caught.value)


def test_a_run_without_an_export_and_stores_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = recopt.run("quadratic(dim=3)", "sgd", steps=2)
    assert run.folder is not None
    shutil.rmtree(run.folder / "export")
    with pytest.raises(RecoptError, match=r"has no artifact 'export' yet: 'recopt export [0-9a-f]{32} DIR' writes one"):
        weights(f"runs:/{run.run_id}")
    with pytest.raises(RecoptError, match="does not answer .*refused the connection"):
        weights("models:/tiny", store="http://127.0.0.1:9")
    with pytest.raises(RecoptError, match="There are no runs yet: no store at"):
        weights("models:/tiny", store="sqlite:///none.db")
    with pytest.raises(RecoptError, match="'models:/x' is in a store, where only recopt.Optimizer looks"):
        recopt.run("quadratic", "models:/x", track=False)


def test_only_an_address_needs_mlflow() -> None:
    code = "import recopt, sys, torch; recopt.Optimizer([torch.nn.Parameter(torch.ones(1))])"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'mlflow' not in sys.modules"], check=True)


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecoptError, match=r"no export of recopt.*recopt export RUN DIR"):
        recopt.Optimizer([torch.nn.Parameter(torch.ones(3))], str(tmp_path))
    with pytest.raises(RecoptError, match=r"is a folder, not a stack"):
        recopt.run("quadratic", str(tmp_path), track=False)
    for none in (tmp_path / "none", "./none"):
        with pytest.raises(RecoptError, match=r"There is no folder '.*none': give that of an export, or a stack"):
            recopt.Optimizer([torch.nn.Parameter(torch.ones(3))], none)
    with pytest.raises(RecoptError, match=r"write 'mine', with plugins './mine\.py'"):
        recopt.Optimizer([torch.nn.Parameter(torch.ones(3))], "./mine.py")


def test_settings_are_for_what_is_given_by_its_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert weights("learned-tiny", scale=0.5) != weights("learned-tiny")
    with pytest.raises(RecoptError, match=r"belongs to a strategy that is made already.*an export takes settings"):
        weights("strategies/learned-tiny", scale=0.5)
