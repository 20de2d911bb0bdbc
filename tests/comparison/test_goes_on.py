"""Comparisons that are stopped or killed, and go on to the same table; trainings whose workers die."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recopt.checking.errors import RecoptError
from recopt.comparison import Comparison, Stopped, compare, make_compare_spec, resumed, run_comparison
from recopt.running.session import Session
from recopt.search.executor import Inline
from recopt.search.executors import make_executor
from recopt.search.jobs import Answer, Job
from recopt.stacks.failures import RunFailed
from recopt.tracking.mlflow.runs import list_runs

from ..commands import RULE, Recopt, write
from ..comparisons import FAST
from ..sweeps.plugins import TASK
from .test_training import RUN
from .test_workers import same

SPEC: dict[str, Any] = {
    "task": "quadratic(dim=3)", "stacks": [{"run": RUN, "name": "one", "repeat": 2}, {"run": RUN, "name": "again"},
    "adam(lr=0.1)/hypergradient"], "baselines": ["sgd[lr]"], "steps": 8, "seeds": 3, "tune": 3, "tune_tasks": 2,
}  # fmt: skip


class Stops(Inline):
    """An executor that is interrupted after ``most`` answers."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most, self.done = most, list[Job]()

    def next(self) -> Answer:
        if len(self.done) == self.most:
            raise KeyboardInterrupt
        self.done.append(self._waiting[0][1])
        return super().next()


def gone_on(executor: Inline | None = None) -> Comparison:
    spec, run = resumed(list_runs(None, 1)[0].id)
    return run_comparison(spec, executor, resume=run)


@pytest.fixture(autouse=True)
def _store(here: Path, empty_store: Path) -> None:
    """A store whose tables are there."""
    (here / "runs").mkdir()
    shutil.copy(empty_store, here / "runs")


@pytest.fixture(scope="module")
def whole() -> Comparison:
    return run_comparison(make_compare_spec(SPEC), track=False)


def test_a_stopped_comparison_goes_on_to_the_same_table_and_does_nothing_twice(whole: Comparison) -> None:
    first, second, last = Stops(1), Stops(5), Stops()
    with pytest.raises(Stopped) as why:
        run_comparison(make_compare_spec(SPEC), first)
    run = list_runs(None, 9)[0 if list_runs(None, 1)[0].kind == "comparison" else 1]
    assert (run.id, run.status) == (why.value.run_id, "KILLED")
    for executor in (second, last):
        spec, ref = resumed(run.id)
        if executor is second:
            with pytest.raises(Stopped):
                run_comparison(spec, executor, resume=ref)
        else:
            found = run_comparison(spec, executor, resume=ref)
    done = len(first.done) + len(second.done) + len(last.done)
    plain = Stops()
    run_comparison(make_compare_spec(SPEC), plain, track=False)
    assert done == len(plain.done) > 8
    same(found, whole)
    assert [e.competitor.prepared for e in found.entries] == [e.competitor.prepared for e in whole.entries]
    names = sorted(one.name for one in list_runs(None, 9))
    assert names == ["compare quadratic", "train one, seed 0", "train one, seed 1"]
    assert found.run_id == run.id and found.folder is not None
    assert not list(found.folder.glob(".*")) and (found.folder / "runs.csv").exists()
    with pytest.raises(RecoptError, match=f"Comparison {run.id} is finished: 'recopt ui"):
        resumed(run.id)


def test_a_training_that_is_cut_short_goes_on_from_its_checkpoint(
    whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, begun = Session._between, list[int]()

    def interrupted(session: Session) -> None:
        between(session)
        begun.append(session.first_step)
        if len(begun) == 17:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "_between", interrupted)
    with pytest.raises(Stopped) as why:
        run_comparison(make_compare_spec(SPEC))
    assert why.value.run_id is not None
    spec, run = resumed(why.value.run_id)
    found = run_comparison(spec, resume=run)
    assert begun[18] == 18 and len(begun) < 2 * 40 + 18  # the step that had begun is finished
    same(found, whole)
    assert [e.competitor.prepared for e in found.entries] == [e.competitor.prepared for e in whole.entries]
    assert len(list_runs(None, 9)) == 3


KILLS = """
        import os, signal
        from pathlib import Path
        calls = Path("calls")
        calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
        if len(calls.read_text()) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_comparison_that_is_killed_outright_goes_on(recopt: Recopt) -> None:
    write(RULE.format(body=KILLS.strip()), "strategies/mine.py")
    asked = ("compare", "quadratic", "sgd(lr=0.01)", "mine", "--baselines", "sgd[lr]", "--seeds", "3",
             "--steps", "6", "--tune", "2", "--tune-tasks", "2")  # fmt: skip
    killed = subprocess.run([sys.executable, "-m", "recopt", *asked], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (run,) = list_runs(None, 5)
    assert run.status == "KILLED"
    done = recopt("compare", "--resume", run.id[:12], "-o", "out")
    assert done.status == 0, done.err
    assert recopt(*asked, "-o", "whole", "--no-track").status == 0
    for name in ("runs.csv", "table.csv", "curves.csv", "comparison.yaml"):
        assert Path("out", name).read_text() == Path("whole", name).read_text()


def test_what_it_does_not_go_on_with_is_refused_in_a_sentence(recopt: Recopt) -> None:
    write(RULE.format(body="pass"), "strategies/mine.py")
    with pytest.raises(Stopped) as why:
        run_comparison(make_compare_spec({**SPEC, "stacks": ["mine"]}), Stops(2))
    run = str(why.value.run_id)
    kept = next(Path("runs/artifacts").rglob(".answers.jsonl"))

    def refused(*more: str) -> str:
        found = recopt("compare", "--resume", run, *more)
        assert found.status == 2 and found.err.count("Error: ") == 1 and list_runs(None, 1)[0].status == "KILLED"
        return found.err

    assert "leave --steps out" in refused("--steps", "3") and "leave TASK out" in refused("quadratic")
    assert "leave --no-track out" in refused("--no-track")
    spec = kept.with_name("comparison.yaml")
    was = spec.read_text()
    spec.write_text(yaml.safe_dump({**yaml.safe_load(was), "seeds": 4}))
    assert f"Run {run} was begun with another 'seeds' in its spec" in refused()
    spec.write_text(was)
    write(RULE.format(body="2"), "strategies/mine.py")
    assert f"Strategy 'mine' has changed since run {run} was begun" in refused()
    write(RULE.format(body="pass"), "strategies/mine.py")
    told = kept.read_text()
    head = json.loads(told.partition("\n")[0])
    head["about"]["recopt"] = "0.0.1"
    kept.write_text(json.dumps(head) + "\n" + told.partition("\n")[2])
    assert f"Run {run} was begun by recopt 0.0.1, and this is" in refused()
    kept.unlink()
    assert f"Run {run} has nothing on this machine to go on from" in refused()
    assert (
        f"Run {run} is a comparison, not a sweep: use 'recopt compare --resume'."
        in recopt("sweep", "--resume", run).err
    )


def test_runs_of_other_kinds_are_not_gone_on_with_as_comparisons(recopt: Recopt) -> None:
    recopt("run", "quadratic", "sgd", "--steps", "2")
    recopt("sweep", "quadratic", "sgd", "--steps", "2", "--over", "sgd.lr=[0.1]", "--by", "grid")
    for row in list_runs(None, 2):
        assert f"use 'recopt {row.kind} --resume'" in recopt("compare", "--resume", row.id).err


def test_a_training_whose_worker_dies_is_made_again_and_one_that_always_does_is_left_out(here: Path) -> None:
    Path("mine.py").write_text(TASK)
    run = {**RUN, "task": "mine.py(once=killed)", "choose": None}
    asked: list[Any] = [
        {"run": run, "name": "once"}, {"run": {**run, "task": "mine.py(deadly=1.0)"}, "name": "deadly"}, "sgd(lr=0.01)",
    ]  # fmt: skip
    spec = make_compare_spec({"task": "quadratic", "stacks": asked, "baselines": [], "seeds": 3, "steps": 4})
    with make_executor("processes", 2) as executor:
        found = run_comparison(spec, executor)
    assert Path("killed").exists() and [entry.name for entry in found.entries] == ["once", "sgd(lr=0.01)"]
    assert found.left_out == {"deadly": "Its worker ended with status 3, 3 times."} and found.folder is not None
    assert "deadly is left out, since its training failed: Its worker ended" in found.notes[0]
    assert "deadly" in (found.folder / "left_out.txt").read_text() and found.plain()["left_out"]
    rest = make_compare_spec({**spec.model_dump(), "stacks": [asked[0], asked[2]]})
    same(found, run_comparison(rest, track=False))
    with (
        make_executor("processes", 1) as executor,
        pytest.raises(RunFailed, match="In the training of 'deadly': Its w"),
    ):
        run_comparison(make_compare_spec({**spec.model_dump(), "reference": "deadly"}), executor, track=False)


def test_trainings_and_their_records_are_the_same_by_other_processes(whole: Comparison) -> None:
    with make_executor("processes", 2) as executor:
        found = run_comparison(make_compare_spec(SPEC), executor)
    same(found, whole)
    rows = {row.id: row for row in list_runs(None, 9)}
    ids = [one.run_id for entry in found.entries for one in entry.competitor.trainings]
    assert [rows[key or ""].name for key in ids] == ["train one, seed 0", "train one, seed 1", "train one, seed 0"]
    assert {row.status for row in rows.values()} == {"FINISHED"}


def test_a_comparison_of_objects_says_that_it_cannot_go_on() -> None:
    from recopt.tasks.quadratic import Quadratic

    with pytest.raises(Stopped) as why:
        run_comparison(make_compare_spec({**SPEC, "stacks": ["sgd"], "task": "quadratic"}), Stops(1),
                       task=Quadratic(dim=3))  # fmt: skip
    spec, run = resumed(str(why.value.run_id))
    with pytest.raises(RecoptError, match="has nothing on this machine to go on from: begin the comparison again"):
        run_comparison(spec, resume=run)
    assert compare(Quadratic(dim=3), "sgd", baselines=[], **FAST).entries
