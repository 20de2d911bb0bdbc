"""Stores that are away for a while, answer nonsense, or refuse for good; spools that cannot be written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow.outbox import Outbox
from recopt.tracking.mlflow.spool import Refused, Spool, Unreachable
from recopt.tracking.mlflow.store import Store, open_store
from recopt.tracking.trace import Points

from ...records import copied, history, points, started

HTML = "<html>Bad Gateway</html>"
ACTIVE = {"run": {"info": {"run_id": "r", "lifecycle_stage": "active", "status": "RUNNING"}, "data": {}}}


class Fake:
    """A server that answers as it is told, and counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answer: Callable[[str], tuple[int, str]] = lambda path: (503, HTML)
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.calls.append(self.path)
                status, body = fake.answer(self.path)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def says(self, status: int, body: object, run: object = None) -> None:
        """Answer every request so; with ``run``, those for a run with that."""
        told = body if isinstance(body, str) else json.dumps(body)
        self.answer = lambda path: (200, json.dumps(run)) if run and "runs/get" in path else (status, told)


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    return copied(empty_store, tmp_path)


def code(name: str) -> dict[str, str]:
    return {"error_code": name, "message": "told so"}


@pytest.mark.parametrize(
    ("status", "body", "run", "outcome"),
    [
        (503, HTML, None, Unreachable),
        (502, HTML, None, Unreachable),
        (404, HTML, None, Unreachable),  # a proxy that does not know its server yet
        (400, HTML, None, Unreachable),
        (200, HTML, None, Unreachable),  # a page to log in
        (403, code("PERMISSION_DENIED"), None, Unreachable),
        (500, code("INTERNAL_ERROR"), None, Unreachable),
        (400, code("BAD_REQUEST"), None, Unreachable),  # MLflow's word for a database that is away
        (400, code("BAD_REQUEST"), ACTIVE, Unreachable),
        (404, code("RESOURCE_DOES_NOT_EXIST"), ACTIVE, Unreachable),
        (404, code("RESOURCE_DOES_NOT_EXIST"), None, Refused),
        (400, code("INVALID_PARAMETER_VALUE"), ACTIVE, Refused),
    ],
)
def test_only_a_run_that_is_lost_or_a_value_that_is_invalid_is_given_up(
    fake: Fake, tmp_path: Path, status: int, body: object, run: object, outcome: type[Exception]
) -> None:
    fake.says(200, {"experiments": []})
    store = open_store(fake.address, tmp_path)
    fake.says(status, body, run)
    with pytest.raises(outcome):
        store.take({"run": "r", "points": [["loss", 1.0, 0, 0]]})
    assert len(fake.calls) <= 6  # MLflow left to itself tries seven times, and waits for minutes between


def test_a_server_that_answers_nonsense_is_refused_in_one_sentence(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(RecoptError) as refusal:
        open_store(fake.address, tmp_path, create=True)
    assert str(refusal.value).count("does not answer") == 1
    assert str(refusal.value).endswith(": start it, or name no store.")
    assert len(fake.calls) <= 2


@pytest.mark.parametrize(
    "name", ["TEMPORARILY_UNAVAILABLE", "BAD_REQUEST", "INTERNAL_ERROR", "RESOURCE_DOES_NOT_EXIST"]
)
def test_what_is_recorded_during_an_outage_is_sent_by_the_next_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    told: list[str] = []
    tracker = started(root, notify=told.append)
    tracker.log(points(range(10)))
    assert tracker._outbox._spool.send(tracker.store.take, 60)

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("the database is away", error_code=ErrorCode.Value(name))

    with monkeypatch.context() as outage:
        for call in ("log_batch", "set_terminated", *(["get_run"] if name != "RESOURCE_DOES_NOT_EXIST" else [])):
            outage.setattr(tracker.store.client._client, call, away)
        tracker.log(points(range(10, 50)))
        tracker.finish("FINISHED", {"final_loss": 0.5})
    assert len(told) == 1
    assert "does not answer (the database is away): the run goes on" in told[0]
    started(root).finish("FINISHED", {})
    assert [step for step, _ in history(tracker.store, tracker.run_id, "loss")] == list(range(50))
    assert tracker.store.run(tracker.run_id).info.status == "FINISHED"


def test_what_a_store_refuses_for_good_is_said(root: Path) -> None:
    told: list[str] = []
    tracker = started(root, notify=told.append)
    tracker.store.client.delete_run(tracker.run_id)
    tracker.log(points(range(5)))
    tracker.finish("FINISHED", {})
    assert len(told) == 1
    assert "refused records of this run" in told[0]


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_what_the_spool_could_not_take_reaches_the_store_in_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    tracker = started(root, notify=told.append)
    tracker.log(points(range(10)))
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "append", full)
        tracker.log(points(range(10, 20)))
    tracker.log(points(range(20, 30)))
    spooled = [step for message in tracker._outbox._spool.unsent() for _, _, _, step in message.get("points", [])]
    assert spooled == list(range(30))
    monkeypatch.setattr(Spool, "append", full)
    tracker.log(points(range(30, 40)))
    tracker.finish("FINISHED", {"final_loss": 0.5})
    assert [step for step, _ in history(tracker.store, tracker.run_id, "loss")] == list(range(40))
    assert tracker.store.run(tracker.run_id).info.status == "FINISHED"
    assert len(told) == 1
    assert "cannot be written (No space left on device): the run goes on, and what it records waits" in told[0]


def test_a_run_that_is_resumed_sends_what_could_be_neither_written_nor_sent(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    lost = started(root, notify=told.append)
    lost.log(points(range(10)))
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "append", full)
        lost.log(points(range(10, 20)))
        patched.setattr("recopt.tracking.mlflow.store._write", full)
        lost.finish("KILLED", {})
    assert "could neither be written nor sent: resume the run, and they are sent from its trace" in told[-1]
    again = started(root, resume=lost.run_id)
    again.log(points(range(30)))  # from the start, as a loaded trace drains
    again.finish("FINISHED", {})
    assert [step for step, _ in history(again.store, again.run_id, "loss")] == list(range(30))


def test_a_line_that_did_not_fit_leaves_no_half_of_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    spool.append({"run": "first"})
    whole = spool._file

    class Half:
        """A file on a disk with room for four more bytes."""

        def __init__(self) -> None:
            self.room = 4

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            self.room = 0
            return whole.write(data[:4])

        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

    spool._file = Half()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        spool.append({"run": "second"})
    spool._file = whole
    spool.append({"run": "third"})
    assert [message["run"] for message in spool.unsent()] == ["first", "third"]
    assert spool.path.read_text().count("\n") == 2
    spool.close(remove=True)


def test_a_level_is_sent_to_its_own_run_and_to_its_parent(root: Path) -> None:
    tracker = started(root)
    tracker._outbox.keep({"run": tracker.levels[2], "points": [["lr", 0.5, 1, 0]], "copy": [tracker.run_id, "level2/"]})
    tracker.log([Points(0, "loss", np.arange(2), np.ones(2))])
    tracker.finish("FINISHED", {})
    assert (
        history(tracker.store, tracker.levels[2], "lr")
        == history(tracker.store, tracker.run_id, "level2/lr")
        == [(0, 0.5)]
    )


def test_an_outbox_says_each_kind_of_trouble_once(tmp_path: Path) -> None:
    told: list[str] = []
    outbox = Outbox(Store("http://host", tmp_path, None), tmp_path / "a.jsonl", told.append)
    for reason in ("one", "two"):
        outbox._tell("away", reason)
        outbox._tell("refused", reason)
    assert ["does not answer (one)" in told[0], "refused records of this run (one)" in told[1]] == [True, True]
    assert len(told) == 2
    outbox._spool.close(remove=False)
