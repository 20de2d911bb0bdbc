"""``recopt sweep`` as a user meets it: from a spec or from options, stopped, killed, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from recopt.sweeps.conduct import JOURNAL
from recopt.tracking.mlflow.children import NUMBER
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.store import open_store

from ..commands import Recopt
from ..sweeps.plugins import alive, data, swept

GIVEN = ("sweep", "digits", "sgd", "--steps", "5", "--measure", "0", "--over", "sgd.lr=[0.01, 0.1]", "--by", "grid")


def test_options_and_a_spec_say_the_same(recopt: Recopt) -> None:
    one = recopt(*GIVEN, "--score", "accuracy", "--json", "-o", "out", "--no-track")
    assert (one.status, one.err) == (0, "")
    told = json.loads(one.out)
    assert [trial["settings"] for trial in told["trials"]] == [{"sgd.lr": 0.01}, {"sgd.lr": 0.1}]
    assert told["trials"][told["best"] - 1]["score"] == max(trial["score"] for trial in told["trials"])
    for again in (recopt("sweep", "out/sweep.yaml", "--json", "--no-track"),
                  recopt("sweep", "--spec", "out/sweep.yaml", "--json", "--no-track")):  # fmt: skip
        for trial, same in zip(told["trials"], json.loads(again.out)["trials"], strict=True):
            assert {**trial, "seconds": 0} == {**same, "seconds": 0}
    more = json.loads(recopt("sweep", "out/sweep.yaml", "--over", "stack=[sgd, adam(lr=1e-3, beta1=0.8)]", "--json",
                             "--no-track").out)  # fmt: skip
    assert [trial["settings"]["stack"] for trial in more["trials"]] == ["sgd", "adam(lr=1e-3, beta1=0.8)", "sgd"]


def test_the_table_and_where_it_all_is_are_printed(recopt: Recopt) -> None:
    found = recopt(*GIVEN, "--repeat", "2")
    assert found.status == 0 and "2 trials by grid, 5 steps" in found.out and "loss, on held-out data" in found.out
    assert "recopt run --spec" in found.out and "finished" in found.out and "±" in found.out
    listed = recopt("runs")
    assert "sweep digits" in listed.out and listed.out.count("digits") == 2
    run = list_runs(None, 1)[0].id
    assert "has a picture of its own" in recopt("report", run).err
    assert "is a sweep" in recopt("run", "--resume", run).err
    assert "is a sweep" in recopt("export", run, "there").err
    assert recopt("sweep", "--resume", run[:8]).status == 0  # all is there already


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give a task, a stack and what to search"),
        (("digits", "sgd"), "nothing to search over"),
        (("digits", "sgd", "--over", "sgd.lr="), "should read NAME=VALUES"),
        (("digits", "sgd", "--over", "sgd.rate=1..2"), "Unknown option 'rate' of sgd"),
        (("digits", "--over", "sgd.lr"), "'stack' is missing"),
        (("digits", "sgd", "--over", "sgd.lr", "--asha", "rungs=3"), "no 'asha.rungs'"),
        (
            ("digits", "sgd", "--over", "sgd.lr", "--executor", "processes", "--address", "here"),
            "use the executor 'ray'",
        ),
        (("digits", "sgd", "--over", "sgd.lr", "--executor", "inline", "--workers", "2"), "name 'processes'"),
        (("missing.yaml",), "missing.yaml cannot be read"),
        (("--resume", "none"), "There is no run 'none'"),
        (("digits", "--resume", "none"), "leave TASK out"),
        (("--resume", "none", "--no-track"), "leave --no-track out"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(recopt: Recopt, arguments: tuple[str, ...], words: str) -> None:
    found = recopt("sweep", *arguments)
    assert (
        found.status == 2 and words in found.err and found.err.count("\n") == 1 and not Path("runs/artifacts").exists()
    )


def test_a_sweep_whose_trials_all_fail_says_so(recopt: Recopt) -> None:
    spec = data(over={"level1.only": [["no such"], ["nor this"]]}, by="grid", trials=None)
    Path("sweep.yaml").write_text(yaml.safe_dump(spec))
    found = recopt("sweep", "sweep.yaml", "--no-track")
    assert found.status == 1 and "Trial 1 failed: " in found.out and "failed" in found.out


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, empty_store: Path) -> None:
    """A store whose tables are there."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs")


def test_a_plugin_that_has_changed_is_told_of_when_a_sweep_goes_on(recopt: Recopt) -> None:
    Path("sweep.yaml").write_text(yaml.safe_dump(data(trials=2, steps=2)))
    assert recopt("sweep", "sweep.yaml").status == 0
    Path("mine.py").write_text(Path("mine.py").read_text().replace("curvature", "the curvature"))
    found = recopt("sweep", "--resume", list_runs(None, 1)[0].id)
    assert found.status == 0 and "Task 'mine' has changed since it was recorded" in found.err


def started(folder: Path, *more: str, mark: str) -> subprocess.Popen[str]:
    """A sweep of slow trials on two workers, in a process of its own."""
    Path("sweep.yaml").write_text(yaml.safe_dump(data(task="mine.py(seconds=0.02)", trials=6, steps=12)))
    command = [sys.executable, "-m", "recopt", "sweep", *more, "--executor", "processes", "--workers", "2"]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "RECOPT_MARK": mark}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip


def journal() -> list[str]:
    files = list(Path().glob(f"runs/artifacts/*/*/artifacts/{JOURNAL}"))
    return files[0].read_text().splitlines() if files else []


def until(process: subprocess.Popen[str], lines: int) -> None:
    """Wait for answers in the journal."""
    end = time.monotonic() + 240
    while len(journal()) < lines:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)


def gone(mark: str) -> bool:
    """True if no process with ``mark`` is left within a while, which the one that sends the record may take."""
    end = time.monotonic() + 90
    while time.monotonic() < end and alive(mark):
        time.sleep(0.05)
    return not alive(mark)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_sweep_that_is_killed_or_stopped_goes_on_and_counts_each_trial_once(here: Path) -> None:
    process = started(here, "sweep.yaml", mark="killed-driver")
    until(process, 2)
    process.kill()
    process.communicate()
    assert gone("killed-driver")
    (run,) = list_runs(None, 5)
    assert run.status == "KILLED"
    before = len(journal())
    process = started(here, "--resume", run.id, mark="stopped-driver")
    until(process, before + 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of its processes
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "") and f"recopt sweep --resume {run.id}" in out
    assert gone("stopped-driver") and list_runs(None, 5)[0].status == "KILLED"
    process = started(here, "--resume", run.id, mark="last-driver")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    keys = [tuple(json.loads(line)["key"]) for line in journal()]
    assert sorted(keys) == [(trial, 0, 0) for trial in range(6)]
    whole = swept(data(task="mine.py(seconds=0.0)", trials=6, steps=12))
    scores = {told["key"][0]: told["found"]["figures"]["loss"] for told in map(json.loads, journal())}
    assert scores == {one.number - 1: one.score for one in whole.trials}
    nested = open_store().client.search_runs([run.experiment], f"tags.`{NUMBER}` != '0'")
    assert sorted(int(one.data.tags[NUMBER]) for one in nested) == list(range(1, 7))
    assert {one.info.status for one in nested} == {"FINISHED"}
