"""Recording: what reaches the store, what happens when it is away, and what a resumed run adds."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recopt import _spool, tracking
from recopt._spool import Spool, Unreachable
from recopt.errors import RecoptError
from recopt.trace import Points, Trace
from recopt.tracker import LevelInfo, Tracker
from recopt.tracking import Store, metric_name, open_store

LEVELS = [LevelInfo(1, "adam", "adam", "task", {"lr": "0.001"}), LevelInfo(2, "sgd", "sgd", "adam")]


def started(root: Path, **changes: Any) -> Tracker:
    given: dict[str, Any] = {"experiment": "tests", "name": "digits adam/sgd", "params": {"seed": "0"}, "tags": {},
                             "levels": LEVELS, "root_dir": root, **changes}  # fmt: skip
    return Tracker.start(given.pop("store", None), **given)


def points(steps: range, level: int = 0, key: str = "loss") -> list[Points]:
    return [Points(level, key, np.array(steps, np.int64), 1 / (1.0 + np.array(steps)))]


def history(store: Store, run: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in store.client.get_metric_history(run, key))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making the tables takes longer than most tests."""
    folder = tmp_path_factory.mktemp("made")
    open_store(None, folder, create=True)
    return folder / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, made: Path) -> Path:
    runs = tmp_path / "my runs"
    runs.mkdir()
    (runs / "mlflow.db").write_bytes(made.read_bytes())
    return runs


def test_a_run_is_a_parent_with_one_nested_run_for_each_level(root: Path) -> None:
    tracker = started(root, tags={"task": "digits"})
    trace = Trace()
    for step in range(20):
        trace.add(0, step, {"loss": 1 / (step + 1)})
        trace.add(1, step, {"lr": 0.5})
        trace.add(2, step, {"meta_loss": float(step)})
    tracker.log(trace.drain(last=True))
    tracker.finish("FINISHED", {"final_loss": 0.05, "evaluations": 20})

    store = tracker.store
    run = store.run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits adam/sgd"
    assert run.data.params == {"seed": "0"}
    assert run.data.tags["task"] == "digits"
    assert run.data.tags["recopt.root"] == tracker.run_id
    assert run.data.metrics == {"loss": 0.05, "final_loss": 0.05, "evaluations": 20.0, "diverged": 0.0}
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
    assert history(store, tracker.levels[2], "meta_loss")[-1] == (19, 19.0)


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


def test_what_is_not_finite_is_a_gap_and_says_diverged(root: Path) -> None:
    tracker = started(root)
    values = np.array([1.0, np.inf, -np.inf, np.nan])
    tracker.log([Points(0, "loss", np.arange(4), values), Points(1, "lr[*bias]", np.arange(4), values)])
    tracker.finish("FAILED", {"final_loss": float("inf"), "best_loss": 1.0})
    metrics = tracker.store.run(tracker.run_id).data.metrics
    assert metrics["diverged"] == metrics["best_loss"] == 1.0
    assert np.isnan(metrics["final_loss"])
    assert [step for step, value in history(tracker.store, tracker.run_id, "loss") if np.isnan(value)] == [1, 2, 3]
    assert (1, 1.0) in history(tracker.store, tracker.run_id, "diverged")
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
    first.finish("KILLED", {"final_loss": 0.5})
    again = started(root, resume=first.run_id, tags={"resumed": "1"})
    assert (again.run_id, again.levels, again.folder) == (first.run_id, first.levels, first.folder)
    assert again.store.run(again.levels[2]).info.status == "RUNNING"
    again.log([*points(range(100)), *points(range(100), 2, "meta_loss")])  # from the start, as a loaded trace drains
    again.finish("FINISHED", {"final_loss": 0.25})
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


# a store that goes away


def unreachable(record: object) -> None:
    raise Unreachable("no route to host")


def test_what_a_store_that_is_away_did_not_take_is_sent_by_the_next_run(root: Path) -> None:
    told: list[str] = []
    lost = started(root, notify=told.append)
    lost.store.take = unreachable  # type: ignore[method-assign]
    for start in range(0, 2500, 100):
        lost.log(points(range(start, start + 100)))
        lost.flush()
    lost.finish("FINISHED", {"final_loss": 0.5})
    store = open_store(None, root)
    assert store.run(lost.run_id).info.status == "RUNNING"
    assert history(store, lost.run_id, "loss") == []
    spool = store.spools / f"{lost.run_id}.jsonl"
    assert len(told) == 1
    assert "does not answer (no route to host): the run goes on" in told[0]
    assert str(spool) in told[0]
    started(root).finish("FINISHED", {})
    assert [step for step, _ in history(store, lost.run_id, "loss")] == list(range(2500))
    assert store.run(lost.run_id).info.status == "FINISHED"
    assert list(store.spools.iterdir()) == []


def test_a_resumed_run_does_not_double_what_was_not_sent_before_it_was_killed(root: Path) -> None:
    killed = started(root)
    killed.log(points(range(700)))
    assert killed._post._spool.send(killed.store.take, 60)
    killed.log(points(range(700, 1500)))
    killed._post._spool.close(remove=False)  # as when the process is gone
    again = started(root, resume=killed.run_id)
    again.log(points(range(2000)))
    again.finish("FINISHED", {})
    assert [step for step, _ in history(again.store, again.run_id, "loss")] == list(range(2000))


def test_a_server_that_says_nothing_costs_seconds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking._SETTINGS, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begin = time.monotonic()
        with pytest.raises(RecoptError, match="does not answer .it did not answer in time.: start it"):
            open_store(f"http://127.0.0.1:{silent.getsockname()[1]}", root, create=True)
        assert time.monotonic() - begin < 60  # MLflow left to itself waits four minutes
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ  # a program's own mlflow waits as long as it did


def test_a_disk_that_is_full_does_not_stop_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    tracker = started(root, notify=told.append)

    def full(record: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tracker._post._spool, "append", full)
        tracker.log(points(range(10)))
        tracker.log(points(range(10, 20)))
    tracker.log(points(range(20, 30)))
    tracker.finish("FINISHED", {})
    assert len(told) == 1
    assert "cannot be written (No space left on device): the run goes on" in told[0]
    assert [step for step, _ in history(tracker.store, tracker.run_id, "loss")] == list(range(20, 30))


# the process beside a long run


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_a_long_run_is_sent_while_it_goes_and_whole_at_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recopt.tracking_post._SHORT", 0.0)
    tracker = started(root)
    tracker.log(points(range(1000)))
    tracker.flush()
    assert until(lambda: len(history(tracker.store, tracker.run_id, "loss")) == 1000)
    tracker.log(points(range(1500)))
    tracker.finish("FINISHED", {})
    assert [step for step, _ in history(tracker.store, tracker.run_id, "loss")] == list(range(1500))
    assert tracker.store.run(tracker.run_id).info.status == "FINISHED"
    assert list(tracker.store.spools.iterdir()) == []


KILLED = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
import recopt.tracker, recopt.tracking_post
from recopt.trace import Points
recopt.tracking_post._SHORT = 0.0
tracker = recopt.tracker.Tracker.start(None, experiment="tests", name="killed", params={}, tags={}, levels=[],
                                       root_dir=Path(sys.argv[1]))
tracker.flush()
time.sleep(0.01)
tracker.log([Points(0, "loss", np.arange(3000), np.ones(3000))])
print(tracker.run_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_had_recorded_still_arrives(root: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run = process.stdout.readline().strip()
    process.communicate(timeout=60)
    assert process.returncode == -9
    store = open_store(None, root)
    assert until(lambda: len(history(store, run, "loss")) == 3000)
    assert store.run(run).info.status == "RUNNING"
    alive = started(root)
    started(root).finish("FINISHED", {})
    assert store.run(run).info.status == "KILLED"  # for all to see, as soon as anyone records again
    assert store.run(alive.run_id).info.status == "RUNNING"
    alive.finish("FINISHED", {})


def test_a_process_that_cannot_be_started_is_done_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recopt.tracking_post._SHORT", 0.0)
    monkeypatch.setattr("sys.executable", "/none/python")
    tracker = started(root)
    tracker.log(points(range(10)))
    tracker.flush()
    tracker.flush()
    tracker.finish("FINISHED", {})
    assert len(history(tracker.store, tracker.run_id, "loss")) == 10


def test_a_run_deleted_in_the_meantime_does_not_block_the_others(root: Path) -> None:
    tracker = started(root)
    tracker.log(points(range(5)))
    tracker.store.client.delete_run(tracker.run_id)
    tracker.finish("FINISHED", {})
    assert tracker.store.run(tracker.levels[1]).info.status == "FINISHED"
    assert list(tracker.store.spools.iterdir()) == []


def test_sending_is_exact_after_a_half_written_line_and_a_lost_mark(root: Path) -> None:
    tracker = started(root)
    tracker.log(points(range(1500)))
    spool = tracker._post._spool
    assert spool.send(tracker.store.take, 60)
    assert spool.waiting() == 0
    spool.close(remove=False)
    path = spool.path
    path.with_suffix(".sent").unlink()
    with path.open("a") as file:
        file.write('{"run":"cut sho')
    again = started(root, resume=tracker.run_id)
    again.log(points(range(1600)))
    again.finish("FINISHED", {})
    assert [step for step, _ in history(again.store, again.run_id, "loss")] == list(range(1600))


def test_a_spool_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    with pytest.raises(BlockingIOError):
        Spool(tmp_path / "a.jsonl")
    spool.append({"run": "r"})
    assert _spool.replay(tmp_path, lambda record: None, 1.0)
    assert spool.path.exists()
    spool.close(remove=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lock", [None, "unsupported"])
def test_a_file_system_without_locks_will_do(root: Path, monkeypatch: pytest.MonkeyPatch, lock: str | None) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if lock is None:
        monkeypatch.setattr(_spool, "fcntl", None)
    else:
        monkeypatch.setattr(_spool.fcntl, "flock", unsupported)
    alive, tracker = started(root), started(root)
    tracker.log(points(range(10)))
    tracker.finish("FINISHED", {})
    assert len(history(tracker.store, tracker.run_id, "loss")) == 10
    assert tracker.store.run(alive.run_id).info.status == "RUNNING"
    alive.log(points(range(20)))
    lost = started(root)
    lost.log(points(range(30)))
    lost._post._spool.close(remove=False)
    os.utime(lost._post._spool.path, (0, 0))  # as when nothing came for a day
    alive.finish("FINISHED", {})
    assert len(history(tracker.store, alive.run_id, "loss")) == 20
    assert len(history(tracker.store, lost.run_id, "loss")) == 30


def test_runs_removed_under_a_run_do_not_stop_it(root: Path) -> None:
    told: list[str] = []
    tracker = started(root, notify=told.append)
    shutil.rmtree(root)
    tracker.log(points(range(10)))
    tracker.flush()
    tracker.publish()
    tracker.finish("FINISHED", {})
    assert len(told) == 1
    assert "cannot be read (No such file or directory)" in told[0]


def test_a_send_stops_when_its_time_is_up_and_goes_on_where_it_was(tmp_path: Path) -> None:
    spool, got = Spool(tmp_path / "a.jsonl"), []
    for n in range(5):
        spool.append({"run": str(n), "x": float("nan")})

    def slow(record: dict[str, Any]) -> None:
        time.sleep(0.02)
        got.append(record["run"])

    assert not spool.send(slow, 0.03)
    assert 1 <= len(got) < 5
    assert spool.send(slow, 10)
    assert got == ["0", "1", "2", "3", "4"]
    spool.close(remove=False)


# several processes

WRITER = """
import sys
from pathlib import Path
import numpy as np
from recopt.trace import Points
from recopt.tracker import LevelInfo, Tracker
number = int(sys.argv[2])
tracker = Tracker.start(None, experiment="many", name=f"run {number}", params={}, tags={},
                        levels=[LevelInfo(1, "sgd", "sgd", "task")], root_dir=Path(sys.argv[1]))
for start in range(0, 1000, 100):
    steps = np.arange(start, start + 100)
    tracker.log([Points(level, f"m{k}", steps, steps * 1.0) for level in (0, 1) for k in range(5)])
    tracker.flush()
tracker.finish("FINISHED", {"number": number})
assert "torch" not in sys.modules
"""


def test_four_processes_that_make_and_write_one_store_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path / "runs")]
    started = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [(p.returncode, e) for p, e in zip(started, errors, strict=True)] == [(0, "")] * 4
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as base:
        assert base.execute("SELECT COUNT(*) FROM metrics WHERE key LIKE 'm_'").fetchone() == (4 * 2 * 5 * 1000,)
        assert base.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (8,)
    base.close()
