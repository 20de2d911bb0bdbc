"""A run from start to end: built from a plan, recorded, checkpointed, interrupted, resumed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..contracts.errors import RecoptError
from ..engine.engine import Engine
from ..plots.run import save_plots
from ..stacks.blame import RunFailed, blame
from ..tracking.mlflow.runs import find_run, working_folder
from ..tracking.mlflow.store import RUNS
from ..tracking.trace import Trace
from .export import write_export
from .interrupts import Interrupts
from .measuring import Measuring
from .plan import Plan
from .recorder import Recording
from .result import Result, by_slot
from .saving import Saving, saved_trace
from .selection.chooser import Chooser
from .selection.chosen import Score
from .start import make_engine

EXPERIMENT = "recopt"
CHECKPOINT_SECONDS = 15.0


@dataclass(frozen=True)
class Options:
    """How a run is carried out, as opposed to what it computes.

    Attributes:
        store: an MLflow address; None for ``runs/mlflow.db``.
        track: whether to record at all.
        resume: the id of a recorded run to go on with.
        saved: a folder that :meth:`recopt.running.saving.Saving.save` wrote, to go on from without that run's record.
        progress: called after every step.
        root: the folder that the default store and its artifacts are in.
        save_seconds: seconds between checkpoints, at least; more where one takes more than 5 % of that.
    """

    store: str | None = None
    track: bool = True
    experiment: str = EXPERIMENT
    name: str | None = None
    resume: str | None = None
    saved: Path | None = None
    progress: Callable[[Session], None] | None = None
    root: Path = RUNS
    save_seconds: float = CHECKPOINT_SECONDS


class Session:
    """One run being carried out.

    Attributes:
        trace: every figure so far.
        held_out: what is measured on held-out data, ``saving``: its checkpoints, ``record``: what the store has of it.
        chooser: chooses the values that it hands on; None if those are the last ones.
        first_step: where it began, or goes on.

    Raises:
        RecoptError: from the constructor, for what cannot work, before anything is recorded.
        RunFailed: from the constructor, if a user's task or strategy cannot even be set up.
    """

    def __init__(self, plan: Plan, options: Options) -> None:
        self.plan, self.options, self.spec = plan, options, plan.spec
        start = _start(options)
        self.trace = saved_trace(start, self.spec.steps)
        self.record = Recording(self.trace)
        self.engine = _set_up(plan, options, self.record)
        self.chooser = _chooser(plan, self.engine, self.trace)
        self.held_out = Measuring(self.engine, self.trace, self.spec.measure or 0)
        self.saving = Saving(self.engine, self.trace, self.chooser, options.save_seconds)
        if start:
            with self._blamed():
                self.saving.load(start)
        self.first_step = self.step
        if options.track:
            _begin(self.record, plan, options)

    @property
    def step(self) -> int:
        """Updates of the task so far; goes back where a trial begins anew."""
        return self.engine.state.step

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
                if self.step == 0 and not self.held_out.before:
                    self._first()
                while not self.over and not interrupts.asked:
                    with self._blamed():
                        self.engine.step()
                    self._between()
                return self._finish("FINISHED" if self.over else "KILLED")
            except KeyboardInterrupt:
                self.record.end("KILLED", self.engine, self.held_out.before, at_once=True)
                raise
            except RunFailed as why:
                kept = self._fail()
                raise RunFailed(f"{why} The traceback is in {kept}." if kept else str(why)) from why
            except Exception:  # a state that cannot be saved, a full disk, or a mistake of ours
                with suppress(Exception):
                    self._fail()
                raise

    def _first(self) -> None:
        """What is to be done before the first step."""
        with self._blamed():
            self.held_out.measure("test")
            if self.chooser:
                self.chooser.score(self.engine.state)
        if self.record.folder:
            self.saving.save(self.record.folder)

    def _between(self) -> None:
        """What is to be done after each step."""
        with self._blamed():
            if state := self.held_out.due():
                self.held_out.measure("valid", state)
            if self.chooser and (state := self.chooser.due()):
                self.chooser.score(state)
        if self.options.progress:
            self.options.progress(self)
        self.record.keep_up()
        if self.record.folder and self.saving.due:
            self.saving.save(self.record.folder)

    def _finish(self, status: Literal["FINISHED", "KILLED"]) -> Result:
        engine, folder, before = self.engine, self.record.folder, self.held_out.before
        if folder:
            self.saving.save(folder)
        engine.hand_on(engine.state)
        with self._blamed():
            # An interrupted run may go on: what is measured here is then no part of its record.
            after = self.held_out.measure("test", record=status == "FINISHED")
            chosen = self.chooser.end(report=status == "FINISHED") if self.chooser else None
        if folder:
            names = {number: level.by for number, level in enumerate(self.spec.levels, 1)}
            self.saving.finish(folder, chosen)
            save_plots(self.trace, folder, self.plan.graph.describe(), names)
            write_export(engine, self.spec, folder / "export", self.trace, chosen)
        self.record.end(status, engine, before, after, chosen)
        return Result(
            self.spec, self.plan.graph.describe(), self.trace, before, after, by_slot(engine, chosen), engine.budget,
            status, engine, self.record.run_id, folder, chosen,
        )  # fmt: skip

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """What calls a user's code: an error in it that is no refusal is told as theirs."""
        try:
            yield
        except RecoptError:
            raise
        except (Exception, SystemExit) as why:
            raise RunFailed(_told(why, f"Step {self.step + 1}", self.plan)) from why

    def _fail(self) -> Path | None:
        """Mark the run failed, and keep with it a checkpoint and the traceback of what is being handled; that file."""
        kept = self.record.keep(traceback.format_exc())
        if kept:
            with suppress(RecoptError):  # a state that cannot be saved, which may be what is told
                self.saving.save(kept.parent)
        self.record.end("FAILED", self.engine, self.held_out.before)
        return kept


def _start(options: Options) -> Path | None:
    """The folder with what the run goes on from, if it does not begin."""
    if options.resume is None:
        return options.saved
    if not options.track:
        raise RecoptError("A run that is not recorded cannot be resumed: leave --no-track out.")
    return working_folder(find_run(options.store, options.resume, options.root), options.store, options.root)


def _begin(record: Recording, plan: Plan, how: Options) -> None:
    record.begin(plan, how.store, experiment=how.experiment, name=how.name, resume=how.resume, root=how.root)


def _set_up(plan: Plan, options: Options, record: Recording) -> Engine:
    """The engine of a run; an error in a user's code is kept with the run, which is begun for that.

    Raises:
        RecoptError: for what cannot work; RunFailed for an error in a user's strategy or task.
    """
    try:
        engine = make_engine(plan.spec, plan.graph, plan.task, record.trace.add)
        # A data set that is missing, or a batch size that is too large, is to be said before anything is recorded.
        engine.evaluator.batch(engine.state.slots["task"], 0, "train")
    except RecoptError:
        raise
    except (Exception, SystemExit) as why:
        if options.track and not options.resume:
            _begin(record, plan, options)
        kept = record.keep(traceback.format_exc())
        record.end("FAILED")
        where = f" The traceback is in {kept}." if kept else ""
        raise RunFailed(_told(why, "Setting up the run", plan) + where) from why
    return engine


def _chooser(plan: Plan, engine: Engine, trace: Trace) -> Chooser | None:
    """What chooses the values that the run hands on, its scores going into the trace."""

    def told(score: Score) -> None:
        trace.add(0, score.step, {"choose_score": score.mean, "choose_diverged": float(score.diverged)})

    return Chooser(plan.spec.choose, engine, plan.task, told) if plan.spec.choose else None


def _told(why: BaseException, when: str, plan: Plan) -> str:
    return f"{blame(why, when, [type(plan.task), *(type(s) for s in plan.graph.slots.values())])}."
