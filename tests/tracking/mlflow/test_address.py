"""Stores that cannot be opened: refused in one sentence, within seconds, whoever is to blame."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow import address as addresses
from recopt.tracking.mlflow import spool
from recopt.tracking.mlflow import store as tracking
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.store import open_store


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("file:///tmp/mlruns", "is a folder, which MLflow no longer records to"),
        ("some/folder", "is a folder, which MLflow no longer records to"),
        ("htp://localhost", "unknown kind 'htp'"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///FOLDER", "is a folder: give a file in it"),
        ("sqlite:///FOLDER/words.db", "is not a database"),
        ("sqlite:///FOLDER/other.db", "is the database of another program"),
        ("sqlite:////proc/none/mlflow.db", "cannot be made"),
        ("mysql+nodriver://u:secret@127.0.0.1/x", "mysql+nodriver://…@127.0.0.1/x"),
        ("http://127.0.0.1:PORT", "does not answer (it refused the connection)"),
    ],
)
def test_a_store_that_cannot_be_opened_is_refused_in_one_sentence(tmp_path: Path, store: str, words: str) -> None:
    (tmp_path / "words.db").write_text("not a database at all")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE users (name TEXT)")
    other.close()
    address = store.replace("FOLDER", str(tmp_path)).replace("PORT", str(closed_port()))
    begin = time.monotonic()
    with pytest.raises(RecoptError) as refusal:
        open_store(address, tmp_path / "runs", create=True)
    assert time.monotonic() - begin < 60  # MLflow left to itself waits two to four minutes
    assert words in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_looking_for_runs_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(RecoptError, match="There are no runs yet"):
        open_store(None, tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def table(path: Path) -> bytes:
    """A database with a table as MLflow's, at ``path``; what the file holds."""
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE experiments (name TEXT)")
    return path.read_bytes()


@pytest.mark.parametrize("there", [True, False])
def test_a_store_that_may_not_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    path, whole = tmp_path / "mlflow.db", sqlite3.connect
    before = table(path) if there else b""

    def readonly(path: Path, **how: Any) -> sqlite3.Connection:  # whoever runs the tests may be root
        return whole(f"file:{path}?mode=ro", uri=True, **how)

    monkeypatch.setattr(addresses.sqlite3, "connect", readonly)
    begin = time.monotonic()
    with pytest.raises(RecoptError, match=r"mlflow.db cannot be opened \(it.* may not be written to\): give sqlite:"):
        open_store(f"sqlite:///{path}", tmp_path / "runs", create=True)
    assert time.monotonic() - begin < 60  # MLflow left to itself waits 105 s
    assert (path.read_bytes() if path.exists() else b"") == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_permissions_are_heeded(tmp_path: Path, what: str) -> None:
    path = tmp_path / "mlflow.db"
    table(path)
    locked = path if what == "file" else tmp_path
    locked.chmod(0o400 if what == "file" else 0o500)
    try:
        with pytest.raises(RecoptError, match="may not be written to"):
            open_store(f"sqlite:///{path}", tmp_path.parent / "runs", create=True)
    finally:
        locked.chmod(0o700)


def test_a_link_that_leads_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    link = tmp_path / "mlflow.db"
    link.symlink_to(tmp_path / "none" / "mlflow.db")
    begin = time.monotonic()
    with pytest.raises(RecoptError, match="it, or its folder, is not there or may not be written to"):
        open_store(f"sqlite:///{link}", tmp_path / "runs", create=True)
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("create", [True, False])
def test_a_locked_store_is_refused_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool
) -> None:
    path = tmp_path / "mlflow.db"
    table(path)
    monkeypatch.setattr(addresses, "_PATIENCE", 0.2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RecoptError, match="another program has it locked"):
            open_store(f"sqlite:///{path}", tmp_path / "runs", create=create)


def test_one_of_ours_that_makes_the_tables_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_PATIENCE", 0.1)
    path, root = tmp_path / "mlflow.db", tmp_path / "runs"
    open_store(f"sqlite:///{path}", root, create=True)
    waits = threading.Event()

    def waiting(path: Path, **how: Any) -> Any:
        waits.set()
        return spool.locked(path)

    monkeypatch.setattr(tracking, "locked", waiting)

    def make() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            begun.set()
            assert waits.wait(60)

    begun, made = threading.Event(), threading.Thread(target=make)
    with spool.locked(next(root.glob(".spool/*.lock"))):
        made.start()
        assert begun.wait(60)
        opened = ThreadPoolExecutor(1).submit(open_store, f"sqlite:///{path}", root, True)
        made.join(60)
    assert opened.result(60).address.endswith("mlflow.db")


def test_looking_into_an_empty_file_makes_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    with pytest.raises(RecoptError, match="There are no runs yet: the store .* is empty"):
        list_runs(f"sqlite:///{path}")
    assert path.stat().st_size == 0
    assert list_runs(open_store(f"sqlite:///{path}", tmp_path, create=True).address) == []
