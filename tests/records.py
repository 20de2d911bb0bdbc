"""Records made by hand, and what the store then has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recopt.tracking.mlflow.store import Store
from recopt.tracking.mlflow.tracker import MlflowTracker
from recopt.tracking.trace import Points
from recopt.tracking.trackers import LevelInfo, RunInfo

LEVELS = [LevelInfo(1, "adam", "adam", "task", {"lr": "0.001"}), LevelInfo(2, "sgd", "sgd", "adam", charts="level2")]


def started(
    root: Path, store: str | None = None, resume: str | None = None, notify: Callable[[str], None] | None = None,
    **changes: Any,
) -> MlflowTracker:  # fmt: skip
    run = RunInfo(
        **{"experiment": "tests", "name": "digits adam/sgd", "params": {"seed": "0"}, "levels": LEVELS, **changes}
    )
    return MlflowTracker.start(store, run, resume=resume, root_dir=root, notify=notify)


def points(steps: range, level: int = 0, key: str = "loss") -> list[Points]:
    return [Points(level, key, np.array(steps, np.int64), 1 / (1.0 + np.array(steps)))]


def history(store: Store, run: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in store.client.get_metric_history(run, key))


def copied(store: Path, folder: Path) -> Path:
    """A runs folder in ``folder``, with a copy of the empty ``store``."""
    runs = folder / "my runs"
    runs.mkdir()
    (runs / "mlflow.db").write_bytes(store.read_bytes())
    return runs
