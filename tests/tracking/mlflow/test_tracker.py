"""Recording: what reaches the store, what happens when it is away, and what a resumed run adds."""

from __future__ import annotations

import gc
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow.runs import list_runs, register
from recopt.tracking.mlflow.store import metric_name
from recopt.tracking.trace import Points, Trace
from recopt.tracking.trackers import LevelInfo

from ...records import LEVELS, copied, history, points, started


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    return copied(empty_store, tmp_path)


def test_a_run_is_a_parent_with_one_nested_run_for_each_level(root: Path) -> None:
    tracker = started(root, tags={"task": "digits"})
    trace = Trace()
    for step in range(20):
        trace.add(0, step, {"loss": 1 / (step + 1)})
        trace.add(1, step, {"lr": 0.5})
        trace.add(2, step, {"meta_loss": float(step)})
    tracker.log(trace.drain(last=True))
    tracker.finish("FINISHED", {"final_loss": 0.05, "evaluations": 20}, {0: {"steps": 20}, 2: {"seconds": 1.5}})

    store = tracker.store
    run = store.run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits adam/sgd"
    assert run.data.params == {"seed": "0"}
    assert run.data.tags["task"] == "digits"
    assert run.data.tags["recopt.root"] == tracker.run_id
    assert run.data.metrics == {"loss": 0.05, "level2/meta_loss": 19.0, "final_loss": 0.05, "evaluations": 20.0}
    assert run.data.tags["steps"] == "20"
    assert history(store, tracker.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(20)]
    for level in LEVELS:
        nested = store.run(tracker.levels[level.number])
        expected = {
            "mlflow.parentRunId": tracker.run_id, "mlflow.user": run.data.tags["mlflow.user"],
            "recopt.root": tracker.run_id, "recopt.level": str(level.number),
            "recopt.strategy": level.strategy, "recopt.moves": level.moves,
        }  # fmt: skip
        assert expected.items() <= nested.data.tags.items()
        assert nested.data.params == {"strategy": level.strategy, "moves": level.moves, **level.params}
        assert nested.info.status == "FINISHED"
    second = store.run(tracker.levels[2])
    assert (second.data.metrics, second.data.tags["seconds"]) == ({"meta_loss": 19.0}, "1.5")  # no constant is a curve
    assert len(history(store, tracker.levels[2], "meta_loss")) == 20
    assert history(store, tracker.levels[2], "meta_loss") == history(store, tracker.run_id, "level2/meta_loss")


def test_artifacts_lie_below_the_runs_folder_wherever_it_was_started(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    tracker = started(Path(root.name))
    (tracker.folder / "spec.yaml").write_text("task: digits\n")
    monkeypatch.chdir("/")
    assert tracker.folder.is_absolute()
    assert tracker.folder.is_relative_to(root / "artifacts" / "tests")
    assert [file.path for file in tracker.store.client.list_artifacts(tracker.run_id)] == ["spec.yaml"]
    tracker.finish("FINISHED", {})


def test_a_runs_folder_that_was_moved_keeps_its_runs_and_takes_new_ones(root: Path) -> None:
    old = started(root)
    (old.folder / "checkpoint").write_text("here")
    old.finish("KILLED", {})
    moved = root.rename(root.parent / "moved")
    again = started(moved, resume=old.run_id)
    assert (again.folder / "checkpoint").read_text() == "here"
    assert again.folder.is_relative_to(moved)
    again.finish("FINISHED", {})
    for name in ("new", "newer"):
        new = started(moved, name=name)
        assert new.folder.is_relative_to(moved)
        new.finish("FINISHED", {})
    assert not root.exists()
    names = {experiment.name for experiment in new.store.client.search_experiments()}
    assert names == {"Default", "tests", f"tests in {moved}"}


def test_a_copied_runs_folder_leaves_the_original_alone(root: Path) -> None:
    first = started(root)
    (first.folder / "checkpoint").write_text("original")
    first.finish("KILLED", {})
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    again = started(copy, resume=first.run_id)
    (again.folder / "checkpoint").write_text("copy")
    again.finish("FINISHED", {})
    (copy.parent / "model").mkdir()
    (copy.parent / "model" / "card.json").write_text("{}")
    register(copy.parent / "model", "digits", run=first.run_id, root_dir=copy)
    new = started(copy, name="new")
    assert again.folder.is_relative_to(copy)
    assert new.folder.is_relative_to(copy)
    new.finish("FINISHED", {})
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_what_is_not_finite_is_a_gap(root: Path) -> None:
    tracker = started(root)
    values = np.array([1.0, np.inf, -np.inf, np.nan])
    tracker.log([Points(0, "loss", np.arange(4), values), Points(1, "lr[*bias]", np.arange(4), values)])
    tracker.finish("FAILED", {"final_loss": float("inf"), "best_loss": 1.0})
    metrics = tracker.store.run(tracker.run_id).data.metrics
    assert metrics["best_loss"] == 1.0
    assert np.isnan(metrics["final_loss"])
    assert [step for step, value in history(tracker.store, tracker.run_id, "loss") if np.isnan(value)] == [1, 2, 3]
    assert len(history(tracker.store, tracker.levels[1], "lr__bias_")) == 4
    assert tracker.store.run(tracker.run_id).info.status == "FAILED"


def test_a_long_param_is_cut_with_a_note_and_many_are_kept(root: Path) -> None:
    many = {f"p{n}": str(n) for n in range(250)}
    tracker = started(root, params={"spec": "x" * 7000, "empty": "", **many})
    kept = tracker.store.run(tracker.run_id).data.params
    assert len(kept["spec"]) == 6000
    assert kept["spec"].endswith("(cut here; the whole is in spec.yaml)")
    assert kept["empty"] == ""
    assert many.items() <= kept.items()
    tracker.finish("FINISHED", {})


@pytest.mark.parametrize("key", ["loss", "level1/lr", "a b-c.d:e", "lr[*bias]", "//x//", "β", "", "x" * 400])
def test_any_key_becomes_a_name_that_mlflow_takes(root: Path, key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(metric_name(key))


def test_a_resumed_run_goes_on_in_the_same_runs_without_doubling_points(root: Path) -> None:
    first = started(root)
    first.log([*points(range(60)), *points(range(60), 2, "meta_loss")])
    first.finish("KILLED", {"final_loss": 0.5}, step=59)
    again = started(root, resume=first.run_id, tags={"resumed": "1"})
    assert (again.run_id, again.levels, again.folder) == (first.run_id, first.levels, first.folder)
    assert again.store.run(again.levels[2]).info.status == "RUNNING"
    again.log([*points(range(100)), *points(range(100), 2, "meta_loss")])  # from the start, as a loaded trace drains
    again.finish("FINISHED", {"final_loss": 0.25}, step=99)
    assert [step for step, _ in history(again.store, again.run_id, "loss")] == list(range(100))
    assert [step for step, _ in history(again.store, again.levels[2], "meta_loss")] == list(range(100))
    run = again.store.run(again.run_id)
    assert run.data.metrics["final_loss"] == 0.25
    assert run.data.tags["resumed"] == "1"
    assert run.info.status == "FINISHED"


def test_a_run_that_cannot_be_resumed_is_refused(root: Path) -> None:
    tracker = started(root)
    with pytest.raises(RecoptError, match="is being recorded by another process"):
        started(root, resume=tracker.run_id)
    tracker.finish("FINISHED", {})
    with pytest.raises(RecoptError, match="has no level 3: resume it with the stack"):
        started(root, resume=tracker.run_id, levels=[*LEVELS, LevelInfo(3, "sgd", "sgd", "sgd")])
    tracker.store.client.delete_run(tracker.run_id)
    with pytest.raises(RecoptError, match="was deleted"):
        started(root, resume=tracker.run_id)
    with pytest.raises(RecoptError, match="There is no run 0000"):
        started(root, resume="0" * 32)


@pytest.mark.filterwarnings("ignore:unclosed file")  # that of its spool
def test_a_run_that_is_killed_while_it_begins_is_told_as_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kill(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Kill

    monkeypatch.setattr("recopt.tracking.mlflow.tracker._create_levels", killed)
    with suppress(Kill):
        started(root)
    gc.collect()  # frees the lock of its spool, as the end of a process does
    (row,) = list_runs(None, root_dir=root)
    assert row.status == "KILLED"
    monkeypatch.undo()
    started(root).finish("FINISHED", {})
    assert [row.status for row in list_runs(None, root_dir=root)] == ["FINISHED", "KILLED"]
