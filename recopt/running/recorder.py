"""The record of a run in a store and in the run's folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ..plots.diagram import draw_file
from ..plots.run_view import DIAGRAM
from ..stacks.exported import Trained
from ..tracking.trace import Trace
from ..tracking.tracker import LevelInfo, Status, Tracker
from .export import copy_sources, copy_trained
from .plan import Plan
from .report import begin_report
from .result import Result, level_summary, summary
from .spec import Spec, write_spec

TRACEBACK = "traceback.txt"
_FLUSH_SECONDS = 1.0


class RunRecorder:
    """Records a run in a store and in the run's folder.

    Attributes:
        tracker: None before :meth:`begin`, and always for a run that is not recorded.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.tracker: Tracker | None = None
        self._flushed = time.monotonic()

    @property
    def folder(self) -> Path | None:
        """The folder of the run's files; None if it is not recorded."""
        return self.tracker.folder if self.tracker else None

    @property
    def run_id(self) -> str | None:
        """The id of the run in the store; None if it is not recorded."""
        return self.tracker.run_id if self.tracker else None

    def begin(
        self, plan: Plan, store: str | None, *, experiment: str, name: str | None, resume: str | None, root: Path
    ) -> None:
        """Start the record, or continue that of run ``resume``: params, tags, spec, graph picture, plugin sources.

        Raises:
            RecoptError: if the store cannot be opened, or has no run ``resume``.
        """
        spec, graph, _ = plan
        stack, title = graph.describe(), Path(spec.task.name.rpartition(":")[2]).stem
        tracker = Tracker.start(
            store, experiment=experiment, name=name or f"{title} {stack}",
            params=_params(plan, stack), tags={"recopt.stack": stack, "recopt.task": spec.task.name},
            levels=_levels(spec), resume=resume, root_dir=root,
        )  # fmt: skip
        (tracker.folder / "spec.yaml").write_text(write_spec(spec))
        draw_file(graph, tracker.folder / DIAGRAM, spec.task.name)
        begin_report(plan, tracker.folder)
        keep_sources(plan, tracker.folder / "plugins")
        tracker.publish()
        self.tracker = tracker

    def keep_up(self) -> None:
        """Send new points of the trace to the store, at most once a second."""
        now = time.monotonic()
        if self.tracker and now - self._flushed > _FLUSH_SECONDS:
            self._flushed = now
            self.tracker.log(self.trace.drain())
            self.tracker.flush()

    def keep(self, traceback: str) -> Path | None:
        """Write ``traceback`` into the run's folder; returns the file, or None if it cannot be written."""
        if self.folder is None:
            return None
        path = self.folder / TRACEBACK
        try:
            path.write_text(traceback)
        except OSError:  # a full disk, possibly the cause of the traceback
            return None
        return path

    def stop(self, status: Status, *, points: bool = True) -> None:
        """End the record of a run that may be resumed.

        Args:
            points: whether to send the rest of the trace, which is incomplete if a step was cut short.
        """
        if self.tracker:
            self.tracker.log(self.trace.drain() if points else [])
            self.tracker.finish(status)

    def finish(self, result: Result) -> None:
        """End the record of a run that is over, with its summary at its last step; as failed if it went nowhere."""
        if self.tracker:
            self.tracker.log(self.trace.drain(last=True))
            last = result.engine.state.step
            status: Status = "FINISHED" if result.outcome == "finished" else "FAILED"
            self.tracker.finish(status, summary(result), level_summary(result.engine), step=last)


def _params(plan: Plan, stack: str) -> dict[str, str]:
    """The params of a run in the store: its settings, and the initial value of every hyperparameter."""
    spec = plan.spec
    chosen = {f"task.{key}": str(value) for key, value in spec.task.settings.items()}
    how = spec.choose.model_dump(exclude_none=True) if spec.choose else {}
    chosen |= {f"choose.{key}": str(value) for key, value in how.items()}
    for slot, named in spec.strategies.items():
        strategy = plan.graph.slots[slot]
        start = strategy.natural({name: value.detach() for name, value in strategy.named_parameters()})
        chosen |= {f"{slot}.{key}": f"{float(value):g}" for key, value in start.items()}
        chosen |= {f"{slot}.{key}": str(value) for key, value in named.settings.items()}
    return {
        "task": spec.task.name, "stack": stack, "depth": str(len(spec.levels)), "steps": str(spec.steps),
        "seed": str(spec.seed), "tasks": str(spec.tasks), "device": spec.device, "dtype": spec.dtype,
        "threads": str(torch.get_num_threads()), **chosen,
    }  # fmt: skip


def _levels(spec: Spec) -> list[LevelInfo]:
    found = []
    for number, level in enumerate(spec.levels, 1):
        told = level.model_dump(exclude_none=True, exclude={"moves", "by"})
        chosen = {key: str(value) for key, value in told.items() if value != ()}
        found.append(LevelInfo(number, level.by, spec.strategies[level.by].name, level.moves, chosen))
    return found


def keep_sources(plan: Plan, folder: Path) -> None:
    """Copy the user's plugins, as they were run, into ``folder``."""
    for slot in plan.graph.slots.values():
        if isinstance(slot, Trained):
            copy_trained(type(slot), folder / "strategies")
        else:
            copy_sources(type(slot), folder / "strategies")
    copy_sources(type(plan.task), folder / "task")
