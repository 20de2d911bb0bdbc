"""The command line in fresh processes: the first run of a new user, one that is killed, and one that is stopped."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from recopt import run
from recopt.checking.errors import RecoptError
from recopt.cli import main
from recopt.engine.checkpoint import check
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.sender import Sender
from recopt.tracking.trace import Trace, load_trace

from ..processes import trap

RECOPT = [sys.executable, "-m", "recopt"]
SEARCH = ("run", "quadratic", "adam(lr=0.1)/hypergradient/annealing", "--set", "level3.every=15", "--seed", "2")


def recopt(folder: Path, *args: str) -> str:
    """What a command that succeeds prints."""
    wide = {key: value for key, value in os.environ.items() if key != "COLUMNS"}  # which pytest may have set
    done = subprocess.run(
        [*RECOPT, *args], cwd=folder, env=wide, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout


def started(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*RECOPT, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def artifacts(folder: Path) -> Path:
    """The folder of the one run in ``folder``."""
    [found] = (folder / "runs" / "artifacts" / "recopt").glob("*/artifacts")
    return found


def wait_for(folder: Path, step: int, process: subprocess.Popen[str]) -> Path:
    """Until the run has a checkpoint of ``step`` or later; the run's folder."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        try:
            if check(artifacts(folder) / "checkpoint.safetensors") >= step:
                return artifacts(folder)
        except (RecoptError, ValueError):
            time.sleep(0.005)
    raise AssertionError("no checkpoint came")


def same_figures(one: Trace, other: Trace) -> None:
    assert one.keys() == other.keys()
    for key in one.keys():  # noqa: SIM118 - not a mapping
        for a, b in zip(one.series(*key), other.series(*key), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(key))


def whole(steps: int, measure: int) -> Trace:
    """The record of the same run, not interrupted."""
    task, stack, _, setting, _, seed = SEARCH[1:]
    return run(task, stack, settings=[setting], seed=int(seed), steps=steps, measure=measure, track=False).trace


def statuses(folder: Path) -> list[str]:
    return [row.status for row in list_runs(root_dir=folder / "runs")]


@pytest.mark.slow
def test_a_run_killed_outright_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # far more steps than it can make before it is killed, however seldom this process gets to look
    process = started(tmp_path, *SEARCH, "--steps", "100000", "--measure", "20", "--save-every", "0.1")
    folder = wait_for(tmp_path, 80, process)
    process.kill()
    process.communicate()
    reached = check(folder / "checkpoint.safetensors")
    assert reached >= 80
    assert statuses(tmp_path) == ["KILLED"]
    assert not (folder / "export").exists()
    monkeypatch.chdir(tmp_path)
    ref = folder.parent.name[:8]
    with pytest.raises(SystemExit, match="0"):
        main(["export", ref, "out"])  # from the checkpoint alone
    assert load_file("out/strategies.safetensors").keys() >= {"adam/lr", "hypergradient/kappa"}
    steps = reached + 50
    out = recopt(tmp_path, "run", "--resume", ref, "--steps", str(steps))
    assert f"finished, {steps:,} steps" in out
    same_figures(load_trace(folder / "trace.npz"), whole(steps, measure=20))
    assert statuses(tmp_path) == ["FINISHED"]


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = started(tmp_path, *SEARCH, "--steps", "100000", "--measure", "20", "--save-every", "0.2")
    folder = wait_for(tmp_path, 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    found = re.search(r"go on   recopt run --resume (\w+)", out)
    stopped = re.search(r"interrupted at step (\d+) of 100,000", out)
    assert found is not None, out
    assert stopped is not None
    assert found[1] == folder.parent.name
    assert statuses(tmp_path) == ["KILLED"]
    steps = int(stopped[1]) + 50
    recopt(tmp_path, "run", "--resume", found[1], "--steps", str(steps))
    assert statuses(tmp_path) == ["FINISHED"]
    same_figures(load_trace(folder / "trace.npz"), whole(steps, measure=20))


def test_the_first_run_of_a_new_user(tmp_path: Path) -> None:
    out = recopt(tmp_path, "run", "digits", "adam/hypergradient/annealing", "--steps", "90")
    assert out.startswith("digits  adam/hypergradient[lr]/annealing\nfinished, 90 steps")
    before, after = re.search(r"test accuracy +(\S+) +(\S+)", out).groups()  # type: ignore[union-attr]
    assert float(before) < 0.3
    assert float(after) > 0.4
    rows = re.findall(r"^([123]) +(\w+) +([\w\[\]]+) .* +\d[\d,]* +\d[\d,]* +\d[\d,]* +[\d.]+ *$", out, re.MULTILINE)
    assert rows == [("1", "adam", "task"), ("2", "hypergradient", "adam[lr]"), ("3", "annealing", "hypergradient")]
    folder = artifacts(tmp_path)
    where = folder.relative_to(tmp_path)
    assert f"folder  {where}\nreport  {where}/report.html\nbrowse  recopt ui\n" in out
    made = {"spec.yaml", "graph.svg", "report.html", "summary.json", "trace.npz", "checkpoint.safetensors"}
    assert made <= {path.name for path in folder.iterdir()}
    [row] = list_runs(root_dir=tmp_path / "runs")
    assert (row.status, row.params["stack"]) == ("FINISHED", "adam/hypergradient[lr]/annealing")
    assert {"final_loss", "test_accuracy", "evaluations", "level1/lr", "diverged"} <= row.metrics.keys()


def test_a_terminal_shows_progress_and_a_pipe_does_not(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    args = ("run", "quadratic", "adam/sgd", "--steps", "150", "--no-track")
    process = subprocess.Popen([*RECOPT, *args], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0
    assert re.search(r"step \d+ of 150 .*loss \d", text)
    assert re.search(r"1  adam +lr 0\.001", text)
    assert re.search(r"2  sgd +lr 0\.05", text)
    assert b"finished, 150 steps" in out
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_the_current_folder_is_what_recopt_and_its_sender_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = trap(tmp_path)
    recopt(tmp_path, "run", "quadratic", "sgd", "--steps", "3", "--no-track")
    monkeypatch.chdir(tmp_path)
    sender = Sender(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, tmp_path / "none.jsonl")
    sender.finish()
    sender.close()
    assert not executed.exists()
