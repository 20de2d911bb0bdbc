"""Runs folders whose names have letters that mean something in an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow.runs import fetch_model, find_run, list_runs, register
from recopt.tracking.mlflow.sender import Sender
from recopt.tracking.mlflow.store import open_store

from ...records import copied, history, points, started

NAMES = ["a%20b", "50%41", "a%2Fb", "a?b", "a?mode=ro", "a#b", "a b", "ümlaut", "100%", "a+b&c=d;e", "x:y@z", "[it's]"]
SENT = ["a%20b", "a?b"]
"""Those that a second process writes too."""


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_written_and_read_where_it_was_put(tmp_path: Path, empty_store: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    root = copied(empty_store, tmp_path / name)
    tracker = started(root)
    (tracker.folder / "spec.yaml").write_text("task: digits\n")
    tracker.log(points(range(3)))
    if name in SENT:
        sender = Sender(tracker.store.address, root, tracker.store.spools / f"{tracker.run_id}.jsonl")
        assert sender.finish()
        sender.close()
        assert len(history(tracker.store, tracker.run_id, "loss")) == 3
    tracker.finish("FINISHED", {})
    again = started(root, resume=tracker.run_id)
    again.finish("FINISHED", {})
    found = find_run(None, tracker.run_id, root)
    assert found.folder == again.folder == tracker.folder
    assert tracker.folder.is_relative_to(root)
    assert (tracker.folder / "spec.yaml").read_text() == "task: digits\n"
    given = open_store(f"{tracker.store.address}", tmp_path / "elsewhere")  # as a message names it, given back
    assert [row.id for row in list_runs(given.address)] == [tracker.run_id]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "card.json").write_text("{}")
    ref = register(tmp_path / "model", "digits", run=tracker.run_id, root_dir=root)
    assert (fetch_model(ref, root_dir=root) / "card.json").read_text() == "{}"
    assert (fetch_model(ref, tmp_path / "copy", root_dir=root) / "card.json").read_text() == "{}"
    assert {path.parts[0] for path in files(tmp_path)} == {name, "model", "copy"}
    assert {path.parts[0] for path in files(tmp_path / name)} == {"my runs"}


def test_a_store_is_made_where_it_is_asked_for_and_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "50%41?" / "runs"
    open_store(None, root, create=True)
    assert list_runs(None, 5, root) == []
    assert {path.name for path in root.iterdir()} == {"mlflow.db", ".spool"}
    assert [path.name for path in tmp_path.iterdir()] == ["50%41?"]


def test_options_of_a_file_are_refused_and_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(RecoptError, match="has options, which a file has not: write %3F for a"):
        open_store(f"sqlite:///{tmp_path}/a?b/mlflow.db", tmp_path, create=True)
    assert files(tmp_path) == set()
