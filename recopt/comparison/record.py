"""The record of a comparison in the store: one run, with a nested run for each competitor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checking.errors import RecoptError
from ..running.recorder import keep_traceback
from ..tracking.mlflow.store import RUNS
from ..tracking.mlflow.tracker import MlflowTracker
from ..tracking.trace import Points
from ..tracking.trackers import LevelInfo, RunInfo
from .compare_spec import CompareSpec, write_compare_spec
from .comparison import Comparison
from .figures import Entry, bands, row

EXPERIMENT = "recopt compare"


def record(found: Comparison, store: str | None, name: str | None = None, root: Path = RUNS) -> MlflowTracker:
    """Record a finished comparison with its files; returns the finished tracker.

    Raises:
        RecoptError: if the store cannot be opened or written.
    """
    infos = [_info(number, entry) for number, entry in enumerate(found.entries, 1)]
    names, more = [entry.name for entry in found.entries], {"reference": found.reference}
    tracker = _start(found.spec, names, more, infos, store, name, root)
    found.save(tracker.folder)
    points: list[Points] = []
    for number, (entry, figures) in enumerate(zip(found.entries, found.figures, strict=True), 1):
        for key, values in bands(entry.runs).items():
            points.append(Points(number, f"loss_{key}", np.arange(len(values)), values))
        for key, value in row(figures).items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.append(Points(number, key, np.zeros(1, np.int64), np.array([float(value)])))
    tracker.log(points)
    tracker.finish("FINISHED", _summary(found))
    return tracker


def _info(number: int, entry: Entry) -> LevelInfo:
    """The nested run of a competitor."""
    made = entry.competitor
    params = {key: str(value) for key, value in made.hyperparameters.items()}
    params |= {"stack": made.graph.describe(), "kind": made.kind}
    if runs := [one.run_id for one in made.trainings if one.run_id]:
        params["trained_by"] = ",".join(runs)
    return LevelInfo(number, entry.name, entry.name, "task", params)


def record_failure(spec: CompareSpec, store: str | None, name: str | None, root: Path) -> Path | None:
    """Record a comparison that failed by the current exception.

    Returns:
        The file with the whole traceback; None if it cannot be written.
    """
    names = [one.name or one.stack or "a run" for one in spec.stacks] + list(spec.baselines)
    try:
        tracker = _start(spec, names, {}, [], store, name, root)
        (tracker.folder / "comparison.yaml").write_text(write_compare_spec(spec))
        kept = keep_traceback(tracker.folder)
        tracker.finish("FAILED", {})
    except (RecoptError, OSError):
        return None
    return kept


def _start(
    spec: CompareSpec, names: Sequence[str], more: Mapping[str, str], infos: Sequence[LevelInfo], store: str | None,
    name: str | None, root: Path,
) -> MlflowTracker:  # fmt: skip
    against = " | ".join(names)
    kept = ("steps", "seeds", "seed", "tune", "tune_tasks", "measure", "guards", "device", "dtype")
    params = {"task": spec.task_text, "stack": against, **more, **{key: str(getattr(spec, key)) for key in kept}}
    title = name or f"compare {Path(spec.task.name).stem}"
    tags = {"recopt.task": spec.task.name, "recopt.stack": against, "recopt.kind": "comparison"}
    listed = ", ".join(f"`{one}`" for one in names)
    about = (
        f"Compares {listed} on **{Path(spec.task.name).stem}**, {spec.steps:,} steps on each of {spec.seeds} seeds. "
        "Each has a nested run; `comparison.png` and the tables are among the artifacts."
    )
    return MlflowTracker.start(store, RunInfo(EXPERIMENT, title, params, tags, infos, about), root_dir=root)


def _summary(found: Comparison) -> dict[str, Any]:
    """Summary metrics of the comparison: the scores of the reference and of the best other, and the total cost."""
    values = {f.name: f.score[0].value for f in found.figures}
    others = [value for name, value in values.items() if name != found.reference]
    total = sum(
        e.runs.times * (e.runs.evaluations * found.spec.seeds + (e.competitor.prepared or 0)) for e in found.entries
    )
    best = {"best_other_score": min(others)} if others else {}
    return {
        "reference_score": values[found.reference], **best, "evaluations": total,
        "diverged": max(f.diverged for f in found.figures), "seconds": sum(e.runs.seconds for e in found.entries),
    }  # fmt: skip
