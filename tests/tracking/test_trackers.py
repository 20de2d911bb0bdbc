"""Trackers beside MLflow: what they write, after an interruption too, and what a failing one does to a run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recopt
from recopt.checking.errors import Notice, RecoptError
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.store import open_store
from recopt.tracking.trace import Points
from recopt.tracking.trackers import JsonLines, LevelInfo, RunInfo, Status, TensorBoard, WeightsAndBiases, make_trackers

from ..commands import Recopt

RUN = RunInfo("tests", "a run", {"seed": "0"}, {"task": "digits"},
              [LevelInfo(1, "level 1: adam", "adam", "task", charts="level1")], "Trains **digits**.")  # fmt: skip
POINTS = [
    Points(0, "loss", np.arange(3), np.array([1.0, 0.5, np.inf])),
    Points(1, "lr", np.arange(2), np.array([0.1, 0.2])),
]
SCALARS = {"loss": [(0, 1.0), (1, 0.5), (2, np.inf)], "level1/lr": [(0, 0.1), (1, 0.2)]}


@pytest.fixture
def root(here: Path, empty_store: Path) -> Path:
    (here / "runs").mkdir()
    (here / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return here / "runs"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (folder / "points.jsonl").read_text().splitlines()]


def curves(folder: Path) -> dict[tuple[int, str], list[tuple[int, float]]]:
    found: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for line in lines(folder):
        if "key" in line:
            found.setdefault((line["level"], line["key"]), []).append((line["step"], line["value"]))
    return found


def test_json_lines_hold_the_run_every_point_and_the_end(tmp_path: Path) -> None:
    tracker = JsonLines()
    tracker.start(RUN, tmp_path)
    tracker.log(POINTS)
    assert len(lines(tmp_path)) == 6  # as soon as they are logged
    tracker.finish("FINISHED", {"final_loss": 0.5, "best": float("nan")}, 3)
    first, *points, last = lines(tmp_path)
    assert (first["run"]["name"], first["run"]["params"], first["run"]["levels"][0]["strategy"]) == (
        "a run", {"seed": "0"}, "adam")  # fmt: skip
    assert points[2] == {"level": 0, "key": "loss", "step": 2, "value": "inf"}
    assert last == {"end": "FINISHED", "step": 3, "summary": {"final_loss": 0.5, "best": "nan"}}


def test_tensorboard_has_every_point_in_sections_and_the_params(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second time as a run that is resumed
        tracker = TensorBoard()
        tracker.start(RUN, tmp_path)
        tracker.log(POINTS)
        tracker.finish("FINISHED", {"final_loss": 0.5}, 3)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert {key: [(e.step, pytest.approx(e.value)) for e in found.Scalars(key)] for key in SCALARS} == SCALARS
    assert [(e.step, e.value) for e in found.Scalars("summary/final_loss")] == [(3, 0.5)]
    assert "run/text_summary" in found.Tags()["tensors"]


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records in a file of LevelDB's log format, after W&B's seven bytes."""
    at, block, parts = 7, 32768, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # no header begins so near to a block's end
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_weights_and_biases_has_every_point_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = WeightsAndBiases()
    tracker.start(RUN, tmp_path)
    tracker.log(POINTS)
    tracker.finish("FINISHED", {"final_loss": 0.5}, 3)
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    until = time.monotonic() + 60  # a process of its own writes the file
    while b"FINISHED" not in (written := file.read_bytes()) and time.monotonic() < until:
        time.sleep(0.05)
    found: dict[str, list[tuple[int, float]]] = {}
    config: dict[str, Any] = {}
    for data in wandb_records(written):
        record = Record()
        record.ParseFromString(data)
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for key in SCALARS.keys() & row.keys():
            value = row[key]
            found.setdefault(key, []).append((int(row["evaluation"]), float(value)))
    assert found == SCALARS
    assert config["params"] == {"seed": "0"}


class Kept:
    """A tracker of a user's own, which may fail."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.points, self.end = fails, list[Points](), ("", 0)

    def start(self, run: RunInfo, folder: Path) -> None:
        self.run, self.folder = run, folder
        self._act("start")

    def log(self, points: Iterable[Points]) -> None:
        self.points += points
        self._act("log")

    def finish(self, status: Status, summary: Mapping[str, float], step: int) -> None:
        self.end, self.summary = (status, step), summary
        self._act("finish")

    def _act(self, what: str) -> None:
        if what == self.fails:
            raise OSError("no space")


def test_a_run_is_recorded_by_trackers_by_name_and_of_ones_own_as_by_mlflow(root: Path) -> None:
    own = Kept()
    result = recopt.run("quadratic", "adam/hypergradient", steps=30, trackers=["jsonl", own])
    assert result.folder is not None
    assert result.run_id is not None
    store, found = open_store(), curves(result.folder)
    for (level, key), points in found.items():
        name = f"level{level}/{key}" if level else key
        history = sorted((m.step, m.value) for m in store.client.get_metric_history(result.run_id, name))
        assert history == points, name
    assert {(p.level, p.key) for p in own.points} == found.keys()
    assert own.end == ("FINISHED", 30)
    assert own.summary.keys() == lines(result.folder)[-1]["summary"].keys() >= {"final_loss", "test_loss"}
    assert (own.run.params["stack"], own.folder) == (result.stack, result.folder)


def test_a_resumed_run_has_every_point_once_in_its_trackers(root: Path) -> None:
    def session(steps: int, resume: str | None = None) -> Session:
        made = plan("quadratic", "adam/hypergradient", steps=40)
        return Session(made, RunOptions(resume=resume, trackers=["jsonl"], progress=stop if steps < 40 else None))

    def stop(session: Session) -> None:
        if session.step == 15:
            raise KeyboardInterrupt

    whole = session(40).run()
    with pytest.raises(KeyboardInterrupt):
        session(15).run()
    interrupted = list_runs()[0]
    assert interrupted.folder is not None
    assert lines(interrupted.folder)[-1] == {"end": "KILLED", "step": 0, "summary": {}}
    session(40, interrupted.id).run()
    assert whole.folder is not None
    assert curves(interrupted.folder) == curves(whole.folder)


@pytest.mark.parametrize("when", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(root: Path, when: str) -> None:
    with pytest.warns(Notice, match=r"The tracker Kept failed with OSError: no space; the run goes on without it"):
        result = recopt.run("quadratic", "sgd", steps=5, trackers=[Kept(when), "jsonl"])
    assert result.status == "FINISHED"
    assert result.folder is not None
    assert "no space" in (result.folder / "tracker-traceback.txt").read_text()
    assert lines(result.folder)[-1]["end"] == "FINISHED"


def test_a_tracker_that_cannot_be_had_is_refused_before_anything_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecoptError, match="Unknown tracker 'tensorbord'. Did you mean 'tensorboard'"):
        recopt.run("quadratic", "sgd", trackers=["tensorbord"])
    with pytest.raises(RecoptError, match="record it, or name no tracker"):
        recopt.run("quadratic", "sgd", trackers=["jsonl"], track=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecoptError, match=r"needs the package 'wandb': pip install 'recopt\[wandb\]'"):
        make_trackers(["wandb"])
    assert list_runs() == []


def test_the_command_line_takes_trackers(recopt: Recopt, empty_store: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    assert recopt("run", "quadratic", "sgd", "--steps", "3", "--tracker", "jsonl").status == 0
    folder = list_runs()[0].folder
    assert folder is not None
    assert curves(folder)[0, "loss"]
