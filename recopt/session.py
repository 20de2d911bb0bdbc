"""A run from start to end: built from a plan, recorded, checkpointed, interrupted, resumed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import checkpoint
from .build import make_engine
from .choosing import Chooser
from .chosen import Chosen, Score
from .engine import Engine
from .errors import RecoptError
from .export import write_export
from .failures import RunFailed, blame
from .held_out import measure, settled
from .interrupts import Interrupts
from .plan import Plan
from .plots import save_plots
from .recording import start_record
from .result import Result, by_slot, level_summary, summary
from .state import RunState
from .task import Split
from .trace import Trace, load_trace, save_trace
from .tracker import Status, Tracker
from .tracking import RUNS
from .tracking_runs import find_run, working_folder

EXPERIMENT = "recopt"
CHECKPOINT_SECONDS = 15.0
FLUSH_SECONDS = 1.0
CHECKPOINT, TRACE, TRACEBACK = "checkpoint.safetensors", "trace.npz", "traceback.txt"


@dataclass(frozen=True)
class Options:
    """How a run is carried out, as opposed to what it computes.

    Attributes:
        store: an MLflow address; None for ``runs/mlflow.db``.
        track: whether to record at all.
        resume: the id of a recorded run to go on with.
        progress: called after every step.
        root: the folder that the default store and its artifacts are in.
        save_seconds: seconds between checkpoints, at least; more where one takes more than 5 % of that.
    """

    store: str | None = None
    track: bool = True
    experiment: str = EXPERIMENT
    name: str | None = None
    resume: str | None = None
    progress: Callable[[Session], None] | None = None
    root: Path = RUNS
    save_seconds: float = CHECKPOINT_SECONDS


class Session:
    """One run being carried out.

    Raises:
        RecoptError: from the constructor, for what cannot work, before anything is recorded.
        RunFailed: from the constructor, if a user's task or strategy cannot even be set up.
    """

    def __init__(self, plan: Plan, options: Options) -> None:
        self.plan, self.options = plan, options
        self.spec, self.graph = plan.spec, plan.graph
        self.trace = Trace(self.spec.steps)
        self.before: dict[str, float] = {}
        self.tracker: Tracker | None = None
        self.engine: Engine = self._call(self._make)
        how = self.spec.choose
        self.chooser = Chooser(how, self.engine, plan.task, self._add_score) if how else None
        self.started = time.monotonic()
        self._saved = self._flushed = self.started
        self._pause = options.save_seconds
        self._measured = 0
        self.first_step = 0
        if options.resume:
            if not options.track:
                raise RecoptError("A run that is not recorded cannot be resumed: leave --no-track out.")
            # Before the record is opened: what is refused here leaves the run as it was.
            found = find_run(options.store, options.resume, options.root)
            self.load(working_folder(found, options.store, options.root))
        if options.track:
            self.tracker = self._record()

    @property
    def folder(self) -> Path | None:
        """Where the run's files are."""
        return self.tracker.folder if self.tracker else None

    @property
    def step(self) -> int:
        """Updates of the task so far; goes back where a trial begins anew."""
        return self.engine.state.step

    def _make(self) -> Engine:
        engine = make_engine(self.spec, self.graph, self.plan.task, self._add)
        # A data set that is missing, or a batch size that is too large, is to be said before anything is recorded.
        engine.evaluator.batch(engine.state.slots["task"], 0, "train")
        return engine

    def _add(self, level: int, step: int, values: Mapping[str, Any]) -> None:
        self.trace.add(level, step, values)  # which is another trace once the run is resumed

    def _add_score(self, score: Score) -> None:
        self.trace.add(0, score.step, {"choose_score": score.mean, "choose_diverged": float(score.diverged)})

    def _record(self) -> Tracker:
        how = self.options
        return start_record(
            self.plan, how.store, experiment=how.experiment, name=how.name, resume=how.resume, root=how.root
        )

    # saving

    def load(self, folder: Path) -> None:
        """Go to where :meth:`save` was called, with the same record. Raises RecoptError if nothing was saved there."""
        note = self._call(lambda: checkpoint.load(self.engine, folder / CHECKPOINT))
        if not isinstance(note, dict):  # of a version that knew nothing of choosing
            note = {"trace": note}
        if self.chooser and note.get("choosing"):
            self.chooser.load(note["choosing"])
        if (folder / TRACE).is_file():
            self.trace = load_trace(folder / TRACE, self.spec.steps)
            self.trace.truncate(note["trace"] or [])
        named = [key for level, key in self.trace.keys() if level == 0]  # noqa: SIM118 - not a mapping
        for key in (key for key in named if key.startswith("test_")):
            self.before[key.removeprefix("test_")] = float(self.trace.series(0, key)[1][0])
        if "valid_loss" in named:
            self._measured = int(self.trace.series(0, "valid_loss")[0][-1])
        self.first_step = self.step

    def save(self, folder: Path | None = None) -> None:
        """Write the trace, then the checkpoint, which says how much of the trace belongs to it, into the run's folder.

        Args:
            folder: another folder instead. A run that is not recorded has no folder, and saves nothing without it.
        """
        folder = folder or self.folder
        if folder is None:
            return
        begin = time.monotonic()
        save_trace(self.trace, folder / TRACE)
        checkpoint.save(self.engine, folder / CHECKPOINT, note=self._note())
        self._saved = time.monotonic()
        self._pause = max(self.options.save_seconds, 20 * (self._saved - begin))

    def _note(self) -> dict[str, Any]:
        """What is kept beside the engine's state: how much of the trace belongs to it, and the choice so far."""
        return {"trace": self.trace.lengths(), "choosing": self.chooser.plain() if self.chooser else None}

    # running

    @property
    def over(self) -> bool:
        """Whether all steps are done, or the score that values are chosen by gets no better."""
        return self.step >= self.spec.steps or (self.chooser is not None and self.chooser.stopped)

    def run(self) -> Result:
        """Run to the end, or until interrupted: then the result's status is ``KILLED``.

        Raises:
            RunFailed: for an error in a user's strategy or task.
            KeyboardInterrupt: if interrupted twice; what counts is then the last checkpoint.
        """
        with Interrupts() as interrupts:
            try:
                if self.step == 0 and not self.before:
                    self.before = self._measure("test")
                    self._choose(self.engine.state)
                    self._call(self.save)
                while not self.over and not interrupts.asked:
                    self._call(self.engine.step)
                    self._between()
                return self._finish("FINISHED" if self.over else "KILLED")
            except KeyboardInterrupt:
                if self.tracker:
                    self.tracker.finish(
                        "KILLED", summary(self.engine, self.trace, self.before, {}), level_summary(self.engine)
                    )
                raise
            except RecoptError:
                raise
            except Exception:  # of ours, or a full disk
                with suppress(Exception):
                    self._keep(traceback.format_exc())
                raise

    def _between(self) -> None:
        now, every = time.monotonic(), self.spec.measure
        if every:
            state = settled(self.engine, strictly=True)
            if state.step // every > self._measured // every:
                self._measured = state.step
                self._measure("valid", state)
        if self.chooser and (due := self.chooser.due()):
            self._choose(due)
        if self.options.progress:
            self.options.progress(self)
        if self.tracker and now - self._flushed > FLUSH_SECONDS:
            self._flushed = now
            self.tracker.log(self.trace.drain())
            self.tracker.flush()
        if now - self._saved > self._pause:
            self.save()

    def _measure(self, split: Split, state: Any = None, record: bool = True) -> dict[str, float]:
        state = state or settled(self.engine)
        values: dict[str, float] = self._call(lambda: measure(self.engine, split, state))
        if record:
            self.trace.add(0, state.step, {f"{split}_{key}": value for key, value in values.items()})
        return values

    def _choose(self, state: RunState) -> None:
        if (chooser := self.chooser) is not None:
            self._call(lambda: chooser.score(state))

    def _finish(self, status: Literal["FINISHED", "KILLED"]) -> Result:
        self.save()
        note = self._note()
        self.engine.hand_on(self.engine.state)
        # An interrupted run may go on: what is measured here is then no part of its record.
        after = self._measure("test", record=status == "FINISHED")
        chosen = self._call(lambda: self.chooser and self.chooser.end(report=status == "FINISHED"))
        found, run_id, folder = by_slot(self.engine, chosen), None, self.folder
        if self.tracker and folder:
            if chosen:
                checkpoint.save(self.engine, folder / CHECKPOINT, note={**note, "chosen": chosen.plain()})
            save_trace(self.trace, folder / TRACE)
            save_plots(self.trace, folder, self.graph.describe(), self._names())
            write_export(self.engine, self.spec, folder / "export", self.trace, chosen)
            self._end(status, after, chosen)
            run_id = self.tracker.run_id
        return Result(
            self.spec, self.graph.describe(), self.trace, self.before, after, found, self.engine.budget, status,
            self.engine, run_id, folder, chosen,
        )  # fmt: skip

    def _names(self) -> dict[int, str]:
        return {number: level.by for number, level in enumerate(self.spec.levels, 1)}

    def _end(self, status: Status, after: dict[str, float], chosen: Chosen | None = None) -> None:
        assert self.tracker is not None
        self.tracker.log(self.trace.drain(last=True))
        found = summary(self.engine, self.trace, self.before, after, chosen)
        self.tracker.finish(status, found, level_summary(self.engine))

    # failing

    def _call(self, work: Callable[[], Any]) -> Any:
        """``work()``; an error in a user's code is kept with the run, which is begun for that if need be."""
        try:
            return work()
        except RecoptError:
            if self.tracker:
                self._keep(traceback.format_exc())
            raise
        except Exception as why:
            where = self._keep(traceback.format_exc())
            kept = f" The traceback is in {where / TRACEBACK}." if where else ""
            when = f"Step {self.step + 1}" if hasattr(self, "engine") else "Setting up the run"
            plugins = [type(self.plan.task), *(type(s) for s in self.graph.slots.values())]
            raise RunFailed(f"{blame(why, when, plugins)}.{kept}") from why

    def _keep(self, text: str) -> Path | None:
        """Mark the run failed and keep ``text`` and a checkpoint with it; the folder they are in."""
        made = hasattr(self, "engine")
        if not made and self.options.track and not self.options.resume:
            self.tracker = self._record()
        if self.tracker is None or self.folder is None:
            return None
        (self.folder / TRACEBACK).write_text(text)
        if made:
            with suppress(RecoptError):  # a state that cannot be saved, which may be what is told
                self.save()
            self._end("FAILED", {})
        else:
            self.tracker.finish("FAILED", {})
        return self.folder
