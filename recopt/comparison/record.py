"""The record of a comparison in the store: one run, with a nested run for each competitor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..checking.errors import RecoptError, writing
from ..public import __version__
from ..running.recorder import keep_traceback
from ..search.journal import Entry, Journal
from ..tracking.mlflow.runs import find_resumable, find_run, working_folder
from ..tracking.mlflow.store import RUNS
from ..tracking.mlflow.tracker import MlflowTracker
from ..tracking.trace import Points
from ..tracking.trackers import LevelInfo, RunInfo, Status
from .compare_spec import CompareSpec, make_compare_spec, read_compare_spec, write_compare_spec
from .comparison import SPEC, Comparison
from .contest import Contest
from .figures import Entry as Entered
from .figures import bands, row
from .training import Untrained

EXPERIMENT = "recopt compare"
LEFT_OUT = "left_out.txt"
_JOURNAL, _STATE = ".answers.jsonl", "comparison"


def resumed(ref: str, store: str | None = None, root: Path = RUNS) -> tuple[CompareSpec, str]:
    """The spec and the id of a recorded comparison, to go on with.

    Raises:
        RecoptError: if there is no such run, it is no comparison, or is finished.
    """
    file, run = resumable(Comparison.KIND, ref, store, root)
    return make_compare_spec(read_compare_spec(file), str(file)), run


def resumable(kind: str, ref: str, store: str | None, root: Path) -> tuple[Path, str]:
    """The file of the spec and the id of a recorded comparison of that kind. Errors are those of :func:`resumed`."""
    found = find_resumable(kind, store, ref, root)
    if found.status == "FINISHED":
        raise RecoptError(f"{kind.capitalize()} {found.id} is finished: 'recopt ui {found.id}' shows it.")
    return working_folder(found, store, root) / SPEC, found.id


class CompareRecord:
    """Records a comparison: its spec at once, what is done in a journal, and the rest at the end.

    Attributes:
        journal: the answers so far; None if the comparison is of objects, which cannot be made again.

    Raises:
        RecoptError: from the constructor, if the store cannot be opened, or run ``resume`` is of another comparison.
    """

    def __init__(
        self, contest: Contest, store: str | None, name: str | None, resume: str | None, root: Path, words: bool
    ) -> None:
        state = {"recopt": __version__, "spec": contest.spec.model_dump(mode="json"), "digests": contest.digests}
        if resume is not None:  # refused before the record is opened
            _check_same(resume, _journal(working_folder(find_run(store, resume, root), store, root)), state)
        self._tracker = MlflowTracker.start(store, _info(contest, name), resume=resume, root_dir=root)
        self.run_id, self.folder = self._tracker.run_id, self._tracker.folder
        self._names = contest.names
        self.journal = _journal(self.folder) if words else None
        with writing(self.folder):
            (self.folder / SPEC).write_text(write_compare_spec(contest.spec))
        if self.journal is not None and resume is None:
            self.journal.add(_STATE, Entry(state, {}))

    def finish(self, found: Comparison) -> None:
        """Record the end with its files. Raises RecoptError if they cannot be written."""
        found.save(self.folder)
        numbers, points = {name: n for n, name in enumerate(self._names, 1)}, list[Points]()
        self._tracker.describe(0, {"reference": found.reference})
        for entry, figures in zip(found.entries, found.figures, strict=True):
            number = numbers[entry.name]
            self._tracker.describe(number, _params(entry))
            for key, values in bands(entry.runs).items():
                points.append(Points(number, f"loss_{key}", np.arange(len(values)), values))
            for key, value in row(figures).items():
                if isinstance(value, int | float) and math.isfinite(value):
                    points.append(Points(number, key, np.zeros(1, np.int64), np.array([float(value)])))
        self._tracker.log(points)
        self._tracker.finish("FINISHED", found.summary())
        for file in self.folder.glob(".*"):  # the journal, and notes of the trainings
            with suppress(OSError):
                file.unlink()

    def keep(self, lost: Sequence[Untrained]) -> None:
        """Write the tracebacks of trainings that failed."""
        text = "\n".join(f"{one.name}: {one.failure.message}\n{one.failure.traceback}" for one in lost)
        with writing(self.folder):
            (self.folder / LEFT_OUT).write_text(text)

    def stop(self, status: Status) -> None:
        """End the record of a comparison that may go on later."""
        self._tracker.finish(status)

    def fail(self) -> Path | None:
        """End it as failed by the current exception; returns the file with the traceback, if it can be written."""
        kept = keep_traceback(self.folder)
        self.stop("FAILED")
        return kept


def _journal(folder: Path) -> Journal[str]:
    return Journal(folder / _JOURNAL, str)


def _check_same(run: str, journal: Journal[str], state: Mapping[str, Any]) -> None:
    """Refuse to go on with another comparison than was begun, since its table would be of both."""
    if _STATE not in journal.entries:
        raise RecoptError(f"Run {run} has nothing on this machine to go on from: begin the comparison again.")
    was = journal.entries[_STATE].about
    if was["recopt"] != state["recopt"]:
        raise RecoptError(
            f"Run {run} was begun by recopt {was['recopt']}, and this is {state['recopt']}: go on with that version, "
            "or begin the comparison again."
        )
    if was["spec"] != json.loads(json.dumps(state["spec"])):
        found = next(key for key, value in state["spec"].items() if was["spec"].get(key) != value)
        raise RecoptError(f"Run {run} was begun with another '{found}' in its spec: begin the comparison again.")
    for key, digest in state["digests"].items():
        if was["digests"].get(key) != digest:
            kind, _, name = key.partition(" ")
            raise RecoptError(
                f"{kind.capitalize()} '{name}' has changed since run {run} was begun: begin the comparison again."
            )


def _params(entry: Entered) -> dict[str, str]:
    """The params of the nested run of a competitor."""
    made = entry.competitor
    params = {key: str(value) for key, value in made.hyperparameters.items()}
    params |= {"stack": made.graph.describe(), "kind": made.kind}
    if runs := [one.run_id for one in made.trainings if one.run_id]:
        params["trained_by"] = ",".join(runs)
    return params


def _info(contest: Contest, name: str | None) -> RunInfo:
    spec, names = contest.spec, contest.names
    against = " | ".join(names)
    kept = ("steps", "seeds", "seed", "tune", "tune_tasks", "budget", "measure", "guards", "device", "dtype")
    params = {"task": spec.task_text, "stack": against, **{key: str(getattr(spec, key)) for key in kept}}
    title = name or f"{contest.result.COMMAND} {Path(spec.task.name).stem}"
    tags = {"recopt.task": spec.task.name, "recopt.stack": against, "recopt.kind": contest.result.KIND}
    listed = ", ".join(f"`{one}`" for one in names)
    about = (
        f"Compares {listed} on **{Path(spec.task.name).stem}**, {spec.steps:,} steps on each of {spec.seeds} seeds. "
        "Each has a nested run; `comparison.png` and the tables are among the artifacts."
    )
    levels = [LevelInfo(number, one, one, "task", {}) for number, one in enumerate(names, 1)]
    return RunInfo(EXPERIMENT, title, params, tags, levels, about)
