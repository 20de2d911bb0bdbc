"""Stores on this machine: what a kill leaves of one that is being made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from recopt.tracking.mlflow import store
from recopt.tracking.mlflow.store import open_store


def test_a_store_whose_tables_are_half_made_when_it_is_killed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut:
        def __init__(self, tracking_uri: str, registry_uri: str) -> None:
            Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half of the tables")

        def search_experiments(self, max_results: int) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "_mlflow", lambda: SimpleNamespace(MlflowClient=Cut))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            open_store(None, tmp_path, create=True)
        file = tmp_path / "mlflow.db"
        assert not file.exists() or file.stat().st_size == 0
