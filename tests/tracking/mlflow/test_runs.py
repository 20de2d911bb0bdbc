"""Finding runs again, and the register of trained stacks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow.address import resolve_store
from recopt.tracking.mlflow.runs import RunRow, fetch_model, fetch_run, find_run, list_runs, register
from recopt.tracking.mlflow.store import open_store
from recopt.tracking.mlflow.tracker import MlflowTracker
from recopt.tracking.trackers import LevelInfo, RunInfo

Recorded = list[MlflowTracker]


def record(root: Path, name: str, experiment: str = "tests") -> MlflowTracker:
    levels = [LevelInfo(1, "sgd", "sgd", "task")]
    run = RunInfo(experiment, name, {"seed": "3"}, {"task": "digits"}, levels)
    tracker = MlflowTracker.start(None, run, root_dir=root)
    (tracker.folder / "spec.yaml").write_text(name)
    tracker.finish("FINISHED", {"final_loss": 0.5})
    return tracker


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(root: Path) -> Recorded:
    """Three runs, oldest first; the first and the last have one name."""
    made = []
    for name, experiment in (("twice", "tests"), ("it's one", "others"), ("twice", "tests")):
        made.append(record(root, name, experiment))
        time.sleep(0.01)  # the store tells times to the millisecond
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"\x00" * 8)
    (folder / "spec.json").write_text("{}")
    return folder


def test_runs_are_listed_latest_first_without_their_levels(root: Path, runs: Recorded) -> None:
    rows = list_runs(None, 20, root)
    assert [row.id for row in rows] == [tracker.run_id for tracker in reversed(runs)]
    row = rows[0]
    assert isinstance(row, RunRow)
    assert (row.name, row.status, row.params, row.folder) == ("twice", "FINISHED", {"seed": "3"}, runs[2].folder)
    assert row.metrics == {"final_loss": 0.5}
    assert row.tags["task"] == "digits"
    assert row.seconds is not None
    assert 0 <= row.seconds < 60
    assert abs(time.time() - row.started.timestamp()) < 600
    assert [row.id for row in list_runs(None, 1, root)] == [runs[2].run_id]
    assert list_runs(None, 0, root) == []


def test_a_run_is_found_by_its_id_the_beginning_of_it_or_its_name(root: Path, runs: Recorded) -> None:
    first, other, last = runs
    assert find_run(None, first.run_id, root).id == first.run_id
    assert find_run(None, first.run_id[:12], root).id == first.run_id
    assert find_run(None, "twice", root).id == last.run_id
    assert find_run(None, "it's one", root).id == other.run_id
    assert find_run(None, other.levels[1], root).id == other.run_id
    assert fetch_run(find_run(None, "it's one", root), None, root) == other.folder
    begins = [tracker.run_id[0] for tracker in runs]
    for start in {begin for begin in begins if begins.count(begin) > 1}:
        with pytest.raises(RecoptError, match=rf"\d runs in .* begin with '{start}'.*give more of the id"):
            find_run(None, start, root)


@pytest.mark.parametrize(
    ("ref", "words"),
    [("twise", "There is no run 'twise' in .*Did you mean 'twice'"), ("'", "There is no run"), ("", "There is no run"),
     ("f" * 32, "There is no run ffff"), ("f" * 31, "There is no run"), ("%", "There is no run '%'")],
)  # fmt: skip
def test_a_run_that_is_not_there_is_said_to_be_missing(root: Path, runs: Recorded, ref: str, words: str) -> None:
    with pytest.raises(RecoptError, match=words):
        find_run(None, ref, root)


def test_ids_that_begin_alike_are_named(root: Path, runs: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list_runs(None, 20, root)
    monkeypatch.setattr("recopt.tracking.mlflow.runs._roots", lambda store, condition, limit=None: rows)
    common = next(c for c in "0123456789abcdef" if any(row.id.startswith(c) for row in rows))
    rows[:] = [RunRow(**{**vars(row), "id": common + row.id[1:]}) for row in rows]
    with pytest.raises(RecoptError, match=rf"3 runs in .* begin with '{common}': .*\(twice\).*; give more of the id"):
        find_run(None, common, root)


def test_a_registered_folder_comes_back_by_alias_version_and_run(root: Path, runs: Recorded, model: Path) -> None:
    run = runs[0].run_id
    assert register(model, "digits", run=run, root_dir=root) == "models:/digits/1"
    (model / "spec.json").write_text('{"second": true}')
    assert register(model, "digits", "best", run=run, root_dir=root) == "models:/digits@best"
    found = {ref: (fetch_model(ref, root_dir=root) / "spec.json").read_text()
             for ref in ("models:/digits/1", "models:/digits/2", "models:/digits", "models:/digits@best")}  # fmt: skip
    assert found == {"models:/digits/1": "{}"} | dict.fromkeys(
        ("models:/digits/2", "models:/digits", "models:/digits@best"), '{"second": true}')  # fmt: skip
    copy = fetch_model("models:/digits@best", model.parent / "copies", root_dir=root)
    assert copy.is_relative_to(model.parent / "copies")
    assert sorted(file.name for file in copy.iterdir()) == ["spec.json", "weights.safetensors"]
    assert (fetch_model(f"runs:/{run}/spec.yaml", root_dir=root)).read_text() == "twice"
    (runs[0].folder / "export").mkdir()
    assert fetch_model(f"runs:/{run}", root_dir=root) == fetch_model(f"runs:/{run[:12]}/export/", root_dir=root)
    (runs[0].folder / "export").rmdir()


def test_without_a_store_the_one_that_mlflow_is_told_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_store(None, root) == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/")
    assert resolve_store(None, root) == "http://127.0.0.1:5000"
    assert resolve_store(f"sqlite:///{root}/b.db", root) == f"sqlite:///{root}/b.db"
    assert resolve_store(f"{root}/b.db", root) == f"sqlite:///{root}/b.db"
    assert resolve_store(f"{root}/50%41/b.db", root) == resolve_store(f"sqlite:///{root}/50%2541/b.db", root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert resolve_store(None, root) == f"sqlite:///{root}/mlflow.db"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("models:/digitz", "There is no model 'digitz' in .*Did you mean 'digits'"),
        ("models:/digits/9", "The model 'digits' has no version 9; its latest is"),
        ("models:/digits@bests", "has no alias 'bests'. Did you mean 'best'"),
        ("models:/", "is not models:/NAME@ALIAS"),
        ("digits", "is not models:/NAME@ALIAS"),
        ("runs:/RUN/none", "has no artifact 'none'"),
        ("runs:/RUN/../../x", "has no artifact"),
        ("runs:/0000/x", "There is no run '0000'"),
        ("runs:/RUN", "has no artifact 'export' yet: 'recopt export RUN DIR' writes one"),
    ],
)
def test_a_model_that_is_not_there_is_said_to_be_missing(
    root: Path, runs: Recorded, model: Path, ref: str, words: str
) -> None:
    register(model, "digits", "best", run=runs[0].run_id, root_dir=root)
    run = runs[0].run_id
    with pytest.raises(RecoptError, match=words.replace("RUN", run)):
        fetch_model(ref.replace("RUN", run), root_dir=root)


def test_what_cannot_be_registered_is_refused(root: Path, runs: Recorded, model: Path, tmp_path: Path) -> None:
    run = runs[0].run_id
    with pytest.raises(RecoptError, match="There is nothing to register in"):
        register(tmp_path / "none", "m", run=run, root_dir=root)
    with pytest.raises(RecoptError, match="'a/b' cannot be a model's name"):
        register(model, "a/b", run=run, root_dir=root)
    with pytest.raises(RecoptError, match="'v1' cannot be an alias"):
        register(model, "m", "v1", run=run, root_dir=root)
    with pytest.raises(RecoptError, match="There is no run 0000"):
        register(model, "m", run="0" * 32, root_dir=root)
    (model / "weights.pt").write_bytes(b"\x80\x04N.")
    with pytest.raises(RecoptError, match=r"weights.pt may hold a pickle"):
        register(model, "m", run=run, root_dir=root)
    assert not [m for m in open_store(None, root).client.search_registered_models() if m.name == "m"]


def test_looking_where_nothing_was_recorded_says_so_and_makes_nothing(tmp_path: Path) -> None:
    for look in (lambda: list_runs(None, 5, tmp_path), lambda: find_run(None, "x", tmp_path)):
        with pytest.raises(RecoptError, match="There are no runs yet"):
            look()
    assert list(tmp_path.iterdir()) == []
