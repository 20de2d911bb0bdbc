"""``recopt runs``: filters, order, and the watch."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recopt import run
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.spool import Spool
from recopt.tracking.mlflow.store import open_store

from ..commands import Done, call

CALM, WILD = "sgd(lr=0.001)", "sgd(lr=1000)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A folder with five runs, the oldest first: three on a bowl, one that diverged, one of another task."""
    made = tmp_path_factory.mktemp("listed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        Path("runs").mkdir()
        Path("runs/mlflow.db").write_bytes(empty_store.read_bytes())
        for seed, steps in ((0, 9), (1, 3), (2, 6)):
            run("quadratic(dim=2)", CALM, seed=seed, steps=steps, name=f"trial {seed}")
        run("quadratic(dim=2)", WILD, steps=20, settings=["level1.guard=false"])
        run("rosenbrock", "adam/hypergradient", steps=4)
        yield made


@pytest.fixture
def listed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """What ``recopt runs`` answers there, with JSON: names, or task where none was given."""
    monkeypatch.chdir(folder)

    def ask(*args: str) -> list[str]:
        assert call("runs", "--json", *args) == 0
        return [row["name"].partition(" sgd")[0].partition(" adam")[0] for row in json.loads(capsys.readouterr().out)]

    return ask


NEWEST = ["rosenbrock", "quadratic", "trial 2", "trial 1", "trial 0"]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ((), NEWEST),
        (("--reverse", "-n", "2"), ["trial 0", "trial 1"]),
        (("--status", "diverged"), ["quadratic"]),
        (("--status", "finished", "--status", "diverged", "-n", "2"), NEWEST[:2]),
        (("--task", "QUAD"), NEWEST[1:]),
        (("--stack", "hyper"), ["rosenbrock"]),
        (("--name", "trial"), NEWEST[2:]),
        (("--since", "1h"), NEWEST),
        (("--since", "2999-01-01"), []),
        (("--filter", "params.seed = '1'"), ["trial 1"]),
        (("--filter", "metrics.evaluations > 5", "--name", "trial"), ["trial 2", "trial 0"]),
        (("--sort", "steps", "-n", "3"), ["trial 1", "rosenbrock", "trial 2"]),
        (("--sort", "evaluations", "--reverse", "-n", "2"), ["quadratic", "trial 0"]),
        (("--sort", "seed", "--name", "trial"), ["trial 0", "trial 1", "trial 2"]),
        (("--sort", "test_distance", "-n", "1"), ["rosenbrock"]),  # the others have none
        (("--sort", "task", "-n", "1", "--reverse"), ["rosenbrock"]),
    ],
)
def test_runs_are_filtered_and_sorted(listed: object, args: tuple[str, ...], found: list[str]) -> None:
    assert listed(*args) == found  # type: ignore[operator]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("--sort", "test_los"), "Unknown column 'test_los' of --sort. Did you mean 'test_loss'?"),
        (("--since", "yesterday"), "'yesterday' should read like 30min, 2h, 3d, 2026-11-27 or"),
        (("--status", "dead"), "'dead' is not one of 'running', 'finished', 'diverged', 'frozen', 'failed'"),
        (("--filter", "metrics.loss >"), "MLflow does not understand 'metrics.loss >': Invalid clause"),
        (("--watch",), "--watch is for a terminal, and prints no JSON: leave one of them out."),
    ],
)
def test_a_listing_that_cannot_be_made_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], error: str
) -> None:
    monkeypatch.chdir(folder)
    done = Done(call("runs", *args), *capsys.readouterr())
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert error in done.err


def test_the_table_says_that_there_are_more_and_has_the_column_of_its_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    call("runs", "-n", "2", "--sort", "evaluations")
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("seconds  evaluations")
    assert "There are more: -n 4 shows them." in out
    call("runs", "--name", "no such name")
    assert capsys.readouterr().out == "There are no such runs.\n"


def test_a_run_whose_process_is_gone_is_interrupted_and_one_that_goes_on_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    store = open_store()
    found = list_runs()[-1].id
    store.client.update_run(found, status="RUNNING")
    assert list_runs()[-1].status == "RUNNING"  # no spool here: it may be another machine's
    spool = Spool(store.spools / f"{found}.jsonl")
    try:
        assert list_runs()[-1].status == "RUNNING"
        spool.close(remove=False)  # as a kill does
        assert list_runs()[-1].status == "KILLED"
    finally:
        spool.path.unlink()
        store.client.set_terminated(found, "FINISHED")


def test_a_watch_shows_new_runs_and_ends_with_ctrl_c(folder: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 160))
    command = [sys.executable, "-m", "recopt", "runs", "--watch", "--name", "trial"]
    with subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen, end = "", time.monotonic() + 120
        while "Ctrl-C ends it." not in seen and time.monotonic() < end:
            seen += os.read(ours, 4096).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(ours)
    assert "trial 2" in seen and "rosenbrock" not in seen
