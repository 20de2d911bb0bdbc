"""The record of a run in a store and in the run's folder."""

from __future__ import annotations

import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..checking.errors import Notice
from ..diagnosis.view import DIAGRAM
from ..levels.level import BILEVEL, INIT, TASK
from ..plots.diagram import draw_file
from ..stacks.origin import held_by
from ..tracking.mlflow.tracker import MlflowTracker
from ..tracking.trace import Points, Trace
from ..tracking.trackers import LevelInfo, RunInfo, Status, Tracker
from .export import copy_rules, copy_sources
from .plan import Plan
from .report import begin_report
from .result import Result, hyperparameters_at, level_summary, summary
from .spec import write_spec

EXPERIMENT = "recopt"
TRACEBACK, TRACKER_TRACEBACK = "traceback.txt", "tracker-traceback.txt"
_FLUSH_SECONDS = 1.0
_FEW = 5  # names in a sentence


class RunRecorder:
    """Records a run in a store and in the run's folder.

    Attributes:
        tracker: None before :meth:`begin`, and always for a run that is not recorded.
        others: trackers beside MLflow; one that fails is left out from then on.
    """

    def __init__(self, trace: Trace, others: Sequence[Tracker] = ()) -> None:
        self.trace, self.others = trace, list(others)
        self.tracker: MlflowTracker | None = None
        self._flushed = time.monotonic()
        self._fixed: dict[tuple[int, str], float] = {}
        self._moved = set[tuple[int, str]]()

    @property
    def folder(self) -> Path | None:
        """The folder of the run's files; None if it is not recorded."""
        return self.tracker.folder if self.tracker else None

    @property
    def run_id(self) -> str | None:
        """The id of the run in the store; None if it is not recorded."""
        return self.tracker.run_id if self.tracker else None

    def begin(self, plan: Plan, store: str | None, name: str | None, resume: str | None, root: Path) -> None:
        """Start the record, or continue that of run ``resume``: params, tags, spec, graph picture, plugin sources.

        Raises:
            RecoptError: if the store cannot be opened, or has no run ``resume``.
        """
        spec, graph, _ = plan
        stack, title = graph.describe(), Path(spec.task.name.rpartition(":")[2]).stem
        run = RunInfo(
            EXPERIMENT, name or f"{title} {stack}", _params(plan, stack),
            {"recopt.stack": stack, "recopt.task": spec.task.name}, _levels(plan), _description(plan, title, stack),
        )  # fmt: skip
        tracker = MlflowTracker.start(store, run, resume=resume, root_dir=root)
        self._fixed = _fixed(plan)
        (tracker.folder / "spec.yaml").write_text(write_spec(spec))
        draw_file(graph, tracker.folder / DIAGRAM, spec.task.name)
        begin_report(plan, tracker.folder)
        keep_sources(plan, tracker.folder / "plugins")
        self.tracker = tracker
        self._each(lambda other: other.start(run, tracker.folder))
        tracker.publish()

    def keep_up(self) -> None:
        """Send new points of the trace to the store, at most once a second."""
        now = time.monotonic()
        if self.tracker and now - self._flushed > _FLUSH_SECONDS:
            self._flushed = now
            self._log(self._news())
            self.tracker.flush()

    def _log(self, points: list[Points]) -> None:
        if self.tracker:
            self.tracker.log(points)
            self._each(lambda other: other.log(points))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for other in list(self.others):
            try:
                act(other)
            except Exception as why:
                self.others.remove(other)
                kept = keep_traceback(self.folder, TRACKER_TRACEBACK)
                text = f"The tracker {type(other).__name__} failed with {type(why).__name__}: {why}; the run goes on"
                warnings.warn(Notice(f"{text} without it. The traceback is in {kept}."), stacklevel=2)

    def _news(self, last: bool = False) -> list[Points]:
        """The new points of the trace; those of a hyperparameter from where it first moved, as its start is a param.

        What is left out depends on the values alone, and not on when they are asked for.
        """
        found = []
        for points in self.trace.drain(last):
            if points.key.startswith("member"):  # of the lineage of a population: too many curves for a store
                continue
            column = points.level, points.key
            moved = ~np.isclose(points.values, self._fixed.get(column, np.nan), atol=0)
            if column in self._moved or moved.any():
                first = 0 if column in self._moved else int(moved.argmax())
                self._moved.add(column)
                found.append(points._replace(steps=points.steps[first:], values=points.values[first:]))
        return found

    def stop(self, status: Status, *, points: bool = True) -> None:
        """End the record of a run that may be resumed.

        Args:
            points: whether to send the rest of the trace, which is incomplete if a step was cut short.
        """
        if self.tracker:
            self._log(self._news() if points else [])
            self._each(lambda other: other.finish(status, {}, 0))
            self.tracker.finish(status)

    def finish(self, result: Result) -> None:
        """End the record of a run that is over, with its summary at its last step; as failed if it went nowhere."""
        if self.tracker:
            self._log(self._news(last=True))
            last = result.engine.state.step
            status: Status = "FINISHED" if result.outcome == "finished" else "FAILED"
            found = summary(result)
            self._each(lambda other: other.finish(status, found, last))
            why = {0: {"recopt.why": "\n".join(map(str, result.verdicts)) or "nothing went wrong"}}
            self.tracker.finish(status, found, {**why, **level_summary(result.engine)}, step=last)


def keep_traceback(folder: Path | None, name: str = TRACEBACK) -> Path | None:
    """Write the current traceback into ``folder``; returns the file, or None if it cannot be written."""
    if folder is None:
        return None
    try:
        (folder / name).write_text(traceback.format_exc())
    except OSError:  # a full disk, possibly the cause of the traceback
        return None
    return folder / name


def _params(plan: Plan, stack: str) -> dict[str, str]:
    """The params of a run in the store: what runs are compared by. The rest is in its levels' runs and in spec.yaml."""
    spec = plan.spec
    choose = spec.choose.model_dump(exclude_none=True) if spec.choose else {}
    strategies = [(slot, named.settings) for slot, named in spec.strategies.items()]
    sections = [("task", spec.task.settings), ("choose", choose), *strategies]
    return {
        "task": spec.task.name, "stack": stack, "steps": str(spec.steps), "seed": str(spec.seed),
        "tasks": str(spec.tasks), "device": spec.device, "dtype": spec.dtype, "threads": str(torch.get_num_threads()),
        **({"replay": f"{spec.replay.name} {spec.replay.run}".strip()} if spec.replay else {}),
        **{f"{name}.{key}": str(value) for name, own in sections for key, value in own.items()},
    }  # fmt: skip


def _levels(plan: Plan) -> list[LevelInfo]:
    found = []
    for number, level in enumerate(plan.spec.levels, 1):
        settings = level.model_dump(exclude_none=True, exclude={"moves", "by"})
        strategy = plan.graph.slots[level.by]
        params = {key: str(value) for key, value in settings.items() if value != ()}
        params |= {f"start.{key}": f"{value:g}" for key, value in hyperparameters_at(strategy).items()}
        found.append(LevelInfo(
            number, f"level {number}: {level.by}", plan.spec.strategies[level.by].name, level.moves, params,
            charts=f"level{number}", description=f"Level {number}: {_said(plan, number)} {_summary_line(strategy)}",
        ))  # fmt: skip
    return found


def _moved(plan: Plan, number: int) -> list[str]:
    """The names of the parameters that level ``number`` (from 1) moves, if its slot is a strategy."""
    names = plan.graph.names.get(plan.spec.levels[number - 1].moves, [])
    return [names[i] for i in plan.graph.moved(number - 1, names)]


def _fixed(plan: Plan) -> dict[tuple[int, str], float]:
    """The start of every hyperparameter that no level moves, by level and name."""
    levels = plan.spec.levels
    moved = {(level.moves, name) for number, level in enumerate(levels, 1) for name in _moved(plan, number)}
    return {
        (number, name): value
        for number, level in enumerate(levels, 1)
        for name, value in hyperparameters_at(plan.graph.slots[level.by]).items()
        if (level.by, name) not in moved
    }


def _description(plan: Plan, title: str, stack: str) -> str:
    """A run in plain words, in Markdown."""
    spec = plan.spec
    levels = "\n".join(f"{number}. {_said(plan, number)}" for number in range(1, len(spec.levels) + 1))
    return (
        f"Trains **{title}** for {spec.steps:,} steps with the stack `{stack}`, seed {spec.seed}. "
        f"{_summary_line(plan.task)}\n\n{levels}\n\n"
        "The charts of level *n* stand in the section `level<n>` and in the nested run of that level. "
        "`spec.yaml` among the artifacts repeats the run."
    )


def _said(plan: Plan, number: int) -> str:
    """One sentence on level ``number``: its strategy and what it moves."""
    level, names = plan.spec.levels[number - 1], _moved(plan, number)
    if level.moves == INIT:
        return f"`{level.by}` moves the point that the task's episodes start from."
    if level.moves in (TASK, *BILEVEL):
        return f"`{level.by}` moves the parameters of the task's {'model' if level.moves == TASK else 'loss'}."
    return f"`{level.by}` moves {' and '.join(names) if len(names) < _FEW else 'the parameters'} of `{level.moves}`."


def _summary_line(made: object) -> str:
    return (type(made).__doc__ or "").strip().partition("\n")[0]


def keep_sources(plan: Plan, folder: Path) -> None:
    """Copy the user's plugins, as they were run, and the files that strategies read into ``folder``."""
    slots = plan.graph.slots
    copy_rules([*map(type, slots.values()), *(rule for _, rule in held_by(slots.values()))], folder / "strategies")
    for name, slot in slots.items():
        for file in [Path(getattr(slot, option)) for option in slot.files]:
            copy = folder / "files" / name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.resolve() != copy.resolve():  # a resumed run uses its own copy
                shutil.copyfile(file, copy)
    copy_sources(type(plan.task), folder / "task")
