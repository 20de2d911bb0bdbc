"""Runs stopped by a signal at a chosen moment: resumed, their record is that of the undisturbed run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from recopt.running import recorder
from recopt.running.measurements import Measurements
from recopt.running.plan import Plan, plan
from recopt.running.result import Result
from recopt.running.selection.scores import Score
from recopt.running.selection.selector import Scorer
from recopt.running.session import RunOptions, Session
from recopt.tracking.mlflow.outbox import Outbox
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.store import open_store

Points = dict[tuple[str, str], list[tuple[int, float]]]
MEASURED = ("seconds", "choose_seconds", "evaluations_per_second")
STEPS = 40


class Ended(NamedTuple):
    """A run that is over, and every point that the store has of it."""

    result: Result
    points: Points


def made(stack: str) -> Plan:
    settings = ["level3.every=6"] if "annealing" in stack else []
    return plan("quadratic", stack, steps=STEPS, seed=2, measure=7, settings=settings)


def recorded(run: str, root: Path) -> Points:
    """The points of a run and its levels, by level and key, but for times that are measured."""
    client = open_store(None, root).client
    about = client.get_run(run)
    runs = [about, *client.search_runs([about.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run}'")]
    return {
        (one.data.tags["recopt.level"], key): sorted(
            (point.step, point.value) for point in client.get_metric_history(one.info.run_id, key)
        )
        for one in runs
        for key in one.data.metrics
        if key not in MEASURED
    }


def run(made: Plan, root: Path, at: Callable[[Session], None] | None = None, resume: str | None = None) -> Ended:
    session = Session(made, RunOptions(root=root, progress=at, resume=resume, save_seconds=1e-3))
    result = session.run()
    assert result.run_id is not None
    return Ended(result, recorded(result.run_id, root))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    """The undisturbed run of a stack."""
    known: dict[str, Ended] = {}

    def of(stack: str) -> Ended:
        if stack not in known:
            known[stack] = run(made(stack), tmp_path_factory.mktemp("whole"))
        return known[stack]

    return of


def raised(sign: signal.Signals, at: int) -> Callable[[Session], None]:
    """Raise ``sign`` once, after the evaluation number ``at``."""
    seen = [0]

    def progress(session: Session) -> None:
        seen[0] += 1
        if seen[0] == at:
            signal.raise_signal(sign)

    return progress


def same(one: Ended, other: Ended) -> None:
    assert one.points == other.points
    assert one.result.trace.keys() == other.result.trace.keys()
    for key in one.result.trace.keys():  # noqa: SIM118 - not a mapping
        for a, b in zip(one.result.trace.series(*key), other.result.trace.series(*key), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(key))
    assert one.result.hyperparameters == other.result.hyperparameters
    assert one.result.after == other.result.after


@pytest.mark.parametrize(
    ("sign", "stack", "at"),
    [
        (signal.SIGINT, "adam/sgd", 1),
        (signal.SIGINT, "adam/hypergradient/annealing", 9),
        (signal.SIGTERM, "adam/hypergradient/annealing", 2),
        (signal.SIGHUP, "adam/hypergradient/annealing", 25),
    ],
)
def test_every_point_of_a_run_stopped_by_a_signal_and_resumed_is_there_once(
    sign: signal.Signals, stack: str, at: int, whole: Callable[[str], Ended], tmp_path: Path, empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(recorder, "_FLUSH_SECONDS", 0.0)  # points are sent in other portions than in the whole run
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    stopped = run(made(stack), tmp_path, raised(sign, at))
    assert stopped.result.status == "KILLED"
    assert [row.status for row in list_runs(None, root_dir=tmp_path)] == ["KILLED"]
    resumed = run(made(stack), tmp_path, resume=stopped.result.run_id)
    assert [row.status for row in list_runs(None, root_dir=tmp_path)] == ["FINISHED"]
    same(resumed, whole(stack))


def test_a_run_stopped_before_its_first_step_goes_on_as_the_undisturbed_one(
    whole: Callable[[str], Ended], tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with monkeypatch.context() as patched:
        measure = Measurements.measure

        def stopped(self: Measurements, *args: Any, **kwargs: Any) -> dict[str, float]:
            if self.engine.state.step == 0 and not self.before:
                signal.raise_signal(signal.SIGTERM)
            return measure(self, *args, **kwargs)

        patched.setattr(Measurements, "measure", stopped)
        early = run(made("adam/sgd"), tmp_path)
    assert (early.result.status, len(early.result.losses)) == ("KILLED", 0)
    same(run(made("adam/sgd"), tmp_path, resume=early.result.run_id), whole("adam/sgd"))


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_signal_during_a_score_stops_the_run_at_once_and_the_score_is_made_again(
    number: int, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    how = {"steps": 12, "seed": 2, "settings": ["level2.every=3"], "choose": "every=4,tasks=2,steps=3"}
    selecting = plan("quadratic", "lstm(hidden=2)/adam", **how)  # type: ignore[arg-type]
    undisturbed, begun, score = run(selecting, tmp_path), [0, 0], Scorer.score

    def disturbed(self: Scorer, *args: Any) -> Score:
        begun[0] += 1
        if begun[0] == number:  # one before the first step, two after, and two at the end
            signal.raise_signal(signal.SIGTERM)
        begun[1] += 1
        return score(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", disturbed)
        with pytest.raises(KeyboardInterrupt):
            run(selecting, tmp_path)
    assert begun == [number, number - 1]
    stopped = list_runs(None, root_dir=tmp_path)[0]
    assert stopped.status == "KILLED"
    resumed = run(selecting, tmp_path, resume=stopped.id)
    same(resumed, undisturbed)
    assert resumed.result.chosen is not None and undisturbed.result.chosen is not None
    assert resumed.result.chosen.report == undisturbed.result.chosen.report


def test_a_run_killed_before_its_last_records_are_sent_has_each_figure_once(
    whole: Callable[[str], Ended], tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "finish", lambda post: post._spool.close(remove=False))
        killed = run(made("adam/sgd"), tmp_path)
    assert [row.status for row in list_runs(None, root_dir=tmp_path)] == ["FINISHED"]  # as its spool says
    same(run(made("adam/sgd"), tmp_path, resume=killed.result.run_id), whole("adam/sgd"))


def test_a_finished_run_has_each_figure_once_at_a_step(whole: Callable[[str], Ended]) -> None:
    for key, points in whole("adam/sgd").points.items():
        steps = [step for step, _ in points]
        assert len(steps) == len(set(steps)), key
    assert [step for step, _ in whole("adam/sgd").points["0", "test_loss"]] == [0, STEPS]
