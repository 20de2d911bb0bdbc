"""A store that is away, slow, or shared: nothing that was recorded is lost, or doubled."""

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

import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow import spool as _spool
from recopt.tracking.mlflow import store as tracking
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.spool import Spool, Unreachable
from recopt.tracking.mlflow.store import open_store

from ...records import copied, history, points, started


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    return copied(empty_store, tmp_path)


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
    assert [row.status for row in list_runs(None, root_dir=root)] == [
        "FINISHED"
    ]  # as the spool says, which is not sent
    started(root).finish("FINISHED", {})
    assert [step for step, _ in history(store, lost.run_id, "loss")] == list(range(2500))
    assert store.run(lost.run_id).info.status == "FINISHED"
    assert list(store.spools.iterdir()) == []


def test_a_resumed_run_does_not_double_what_was_not_sent_before_it_was_killed(root: Path) -> None:
    killed = started(root)
    killed.log(points(range(700)))
    assert killed._outbox._spool.send(killed.store.take, 60)
    killed.log(points(range(700, 1500)))
    killed._outbox._spool.close(remove=False)  # as when the process is gone
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


# the process beside a long run


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_a_long_run_is_sent_while_it_goes_and_whole_at_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recopt.tracking.mlflow.outbox._SHORT", 0.0)
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
import recopt.tracking.mlflow.outbox
from recopt.tracking.mlflow.tracker import MlflowTracker
from recopt.tracking.trackers import RunInfo
from recopt.tracking.trace import Points
recopt.tracking.mlflow.outbox._SHORT = 0.0
tracker = MlflowTracker.start(None, RunInfo("tests", "killed"), root_dir=Path(sys.argv[1]))
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
    monkeypatch.setattr("recopt.tracking.mlflow.outbox._SHORT", 0.0)
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
    spool = tracker._outbox._spool
    assert spool.send(tracker.store.take, 60)
    assert not list(spool.unsent())
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
    assert _spool.send_left(tmp_path, lambda record: None, 1.0)
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
    lost._outbox._spool.close(remove=False)
    os.utime(lost._outbox._spool.path, (0, 0))  # as when nothing came for a day
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
from recopt.tracking.trace import Points
from recopt.tracking.mlflow.tracker import MlflowTracker
from recopt.tracking.trackers import LevelInfo, RunInfo
number = int(sys.argv[2])
run = RunInfo("many", f"run {number}", levels=[LevelInfo(1, "sgd", "sgd", "task")])
tracker = MlflowTracker.start(None, run, root_dir=Path(sys.argv[1]))
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
