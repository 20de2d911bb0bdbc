"""The user interface, and a store that is a server: both are MLflow's own server, started here for real."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow.runs import fetch_model, fetch_run, find_run, register
from recopt.tracking.mlflow.store import Store, open_store
from recopt.tracking.mlflow.tracker import MlflowTracker
from recopt.tracking.mlflow.ui import PORTS, _await, _free_port, _serve, _stop, ui
from recopt.tracking.trace import Points
from recopt.tracking.trackers import LevelInfo, RunInfo

from ...processes import trap

pytestmark = pytest.mark.slow
LEVELS = [LevelInfo(1, "sgd", "sgd", "task")]


def record(root: Path, store: str | None = None, steps: int = 10, told: list[str] | None = None) -> MlflowTracker:
    run = RunInfo("tests", "a run", levels=LEVELS)
    tracker = MlflowTracker.start(store, run, root_dir=root, notify=[].append if told is None else told.append)
    (tracker.folder / "spec.yaml").write_text("task: digits\n")
    tracker.log([Points(0, "loss", np.arange(steps), np.arange(steps) * 0.5)])
    return tracker


def steps_of(store: Store, run: str) -> list[int]:
    return sorted(metric.step for metric in store.client.get_metric_history(run, "loss"))


def any_port() -> int:
    """One that other tests, running beside this one, do not come upon."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server with a store of its own, and its address."""
    there = open_store(None, tmp_path / "server", create=True)
    port = any_port()
    process = _serve(there, "127.0.0.1", port)
    address = f"http://127.0.0.1:{port}"
    _await(process, address)
    yield process, address
    _stop(process)


def test_a_server_takes_runs_and_files_and_gives_them_back(
    tmp_path: Path, server: tuple[subprocess.Popen[bytes], str]
) -> None:
    root, (_, address) = tmp_path / "runs", server
    tracker = record(root, address)
    tracker.log([Points(0, "loss", np.array([10, 11]), np.array([np.inf, np.nan]))])
    assert tracker.folder.is_relative_to(root)
    tracker.finish("FINISHED", {"final_loss": float("nan")})
    run = find_run(address, "a run", root)
    assert (run.id, run.status, run.folder) == (tracker.run_id, "FINISHED", None)
    assert steps_of(tracker.store, run.id) == list(range(12))
    assert np.isnan(run.metrics["final_loss"])
    assert (fetch_run(run, address, tmp_path / "elsewhere") / "spec.yaml").read_text() == "task: digits\n"
    again = RunInfo("tests", "", levels=LEVELS)
    elsewhere = MlflowTracker.start(address, again, resume=run.id, root_dir=tmp_path / "another machine")
    assert (elsewhere.folder / "spec.yaml").read_text() == "task: digits\n"
    elsewhere.log([Points(0, "loss", np.arange(20), np.ones(20))])
    elsewhere.finish("FINISHED", {})
    assert steps_of(tracker.store, run.id) == list(range(20))
    ref = register(tracker.folder, "digits", "best", run=run.id, store=address, root_dir=root)
    assert (fetch_model(ref, tmp_path / "model", address, root) / "spec.yaml").exists()
    assert (fetch_model(ref, None, address, root) / "spec.yaml").exists()
    for missing in (f"runs:/{run.id}", f"runs:/{run.id}/models/nothing"):
        with pytest.raises(RecoptError, match="has no artifact"):
            fetch_model(missing, None, address, root)
    lines: list[str] = []
    ui(address, root_dir=root, say=lines.append, browser=False)
    view = "workflowType=machine_learning&viewStateShareKey=recopt"
    assert lines == [f"{address}/#/experiments/{run.experiment}/runs?{view}"]
    shared = tracker.store.client.get_experiment(run.experiment).tags["mlflow.sharedViewState.recopt"]
    assert "metrics.`final_loss`" in json.loads(shared)["selectedColumns"]


def test_a_server_that_dies_costs_a_run_little_and_gets_everything_when_it_is_back(
    tmp_path: Path, server: tuple[subprocess.Popen[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recopt.tracking.mlflow.outbox._SHORT", 0.0)
    root, (process, address), told = tmp_path / "runs", server, list[str]()
    tracker = record(root, address, 5, told)
    tracker.flush()
    while len(steps_of(tracker.store, tracker.run_id)) < 5:
        time.sleep(0.1)
    _stop(process)
    begin = time.monotonic()
    for start in range(5, 2005, 100):
        tracker.log([Points(0, "loss", np.arange(start, start + 100), np.ones(100))])
        tracker.flush()
    assert time.monotonic() - begin < 60  # one call of MLflow left to itself waits four minutes
    while not told:
        time.sleep(0.1)
        tracker.flush()
    begin = time.monotonic()
    tracker.finish("FINISHED", {})
    assert time.monotonic() - begin < 60
    assert len(told) == 1
    assert f"The store {address} does not answer (it refused the connection)" in told[0]
    assert len(list(tracker.store.spools.glob("*.jsonl"))) == 1
    again = _serve(open_store(None, tmp_path / "server"), "127.0.0.1", int(address.rpartition(":")[2]))
    try:
        _await(again, address)
        record(root, address).finish("FINISHED", {})
        assert steps_of(tracker.store, tracker.run_id) == list(range(2005))
        assert find_run(address, tracker.run_id, root).status == "FINISHED"
        assert list(tracker.store.spools.iterdir()) == []
    finally:
        _stop(again)


UI = """
import signal
import sys
from recopt.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal: background jobs begin with it ignored
main(["ui", "a run", "--no-browser", "--port", sys.argv[1]])
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sign: sign.name)
def test_the_pages_are_linked_at_the_run_and_ctrl_c_or_a_kill_ends_all_of_the_server(
    tmp_path: Path, sign: signal.Signals
) -> None:
    tracker = record(tmp_path / "runs")
    tracker.finish("FINISHED", {})
    executed = trap(tmp_path / "runs")
    port = any_port()
    command = [sys.executable, "-W", "error", "-c", UI, str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    link = process.stdout.readline().strip()
    assert (
        link
        == f"http://127.0.0.1:{port}/#/experiments/1/runs/{tracker.run_id}/model-metrics?workflowType=machine_learning"
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
        assert b"<html" in page.read().lower()
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not executed.exists()
    with socket.socket() as left:
        assert left.connect_ex(("127.0.0.1", port)) != 0


def test_a_user_interface_that_cannot_be_shown_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecoptError, match="There are no runs yet"):
        ui(root_dir=tmp_path / "none")
    open_store(None, tmp_path / "empty", create=True)
    with pytest.raises(RecoptError, match="There are no runs yet in .*: start one with 'recopt run'"):
        ui(root_dir=tmp_path / "empty")
    record(tmp_path / "runs").finish("FINISHED", {})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert _free_port("127.0.0.1", None) in PORTS
        with pytest.raises(RecoptError, match=f"Port {port} is taken: give another with --port"):
            ui(root_dir=tmp_path / "runs", port=port)
    with pytest.raises(RecoptError, match="'no.such.host.invalid' is not an address of this machine"):
        ui(root_dir=tmp_path / "runs", host="no.such.host.invalid")
    with pytest.raises(RecoptError, match="There is no run 'another'. Did you mean|There is no run 'another' in"):
        ui(root_dir=tmp_path / "runs", run="another")


def test_the_server_runs_no_other_processes_than_it_needs(tmp_path: Path) -> None:
    store = open_store(None, tmp_path, create=True)
    port = any_port()
    process = _serve(store, "127.0.0.1", port)
    try:
        _await(process, f"http://127.0.0.1:{port}")
        alive = subprocess.run(["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True, check=True)
        assert 1 <= len(alive.stdout.split()) <= 3
    finally:
        _stop(process)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
