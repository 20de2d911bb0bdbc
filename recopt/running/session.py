"""The execution of a plan: steps, measurements, checkpoints, record, interruption and resumption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from ..checking.errors import RecoptError
from ..diagnosis.verdicts import verdicts
from ..engine.engine import Engine
from ..ranks.agreed import Agreed
from ..ranks.link import RankFailed
from ..ranks.shared import ONE, Ranks
from ..stacks.failures import RunFailed, failure_message
from ..tracking.mlflow.runs import find_run, working_folder
from ..tracking.mlflow.store import RUNS
from ..tracking.trace import Trace
from ..tracking.trackers import Tracker, make_trackers
from .checkpoints import Checkpoints, offered, saved_trace
from .export import write_export
from .measurements import Measurements, check
from .plan import Plan
from .recorder import RunRecorder, keep_traceback
from .report import view_of, write_report
from .result import Result, by_slot
from .schedules import write_schedules
from .selection.scores import Score
from .selection.selector import Selector
from .start import make_engine
from .stop import Stop

CHECKPOINT_SECONDS = 15.0


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that do not change what it computes.

    Attributes:
        store: an MLflow address; None for ``runs/mlflow.db``.
        track: whether to record the run.
        resume: the id of a recorded run to resume.
        saved: a folder that :meth:`recopt.running.checkpoints.Checkpoints.save` wrote, to resume from without a record.
        origin: the plan of the run in ``saved``, if that is another (:mod:`recopt.engine.carry` says what is kept).
        pause: the step at which to stop, as if interrupted there; None for the end.
        progress: called after every step.
        root: the folder of the default store and its artifacts.
        save_seconds: least time between two checkpoints; longer if one takes more than 5 % of it.
        trackers: what a recorded run is recorded by besides MLflow: names of shipped ones, or objects.
        ranks: the processes among which the tasks are divided; the first one records.
    """

    store: str | None = None
    track: bool = True
    name: str | None = None
    resume: str | None = None
    saved: Path | None = None
    origin: Plan | None = None
    pause: int | None = None
    progress: Callable[[Session], None] | None = None
    root: Path = RUNS
    save_seconds: float = CHECKPOINT_SECONDS
    trackers: Sequence[str | Tracker] = ()
    ranks: Ranks = ONE

    @property
    def records(self) -> bool:
        """True if this process records the run."""
        return self.track and self.ranks.rank == 0


class Session:
    """One run in progress.

    Attributes:
        trace: every figure so far.
        held_out: measurements on held-out data; ``checkpoints``; ``recorder``: the record in the store.
        selector: selects the exported values; None if the last ones are exported.
        first_step: the step at which it started or resumed.

    Raises:
        RecoptError: from the constructor, for a plan that cannot work; nothing is recorded then.
        RunFailed: from the constructor, if setting up a user's task or strategy fails.
    """

    def __init__(self, plan: Plan, options: RunOptions) -> None:
        self.plan, self.options, self.spec = plan, options, plan.spec
        start = _start(options)
        with offered(start or Path()):
            self.trace = saved_trace(start, self.spec.steps, options.ranks)
        if options.trackers and not options.track:
            raise RecoptError("Trackers write into the folder of a recorded run: record it, or name no tracker.")
        self.recorder = RunRecorder(self.trace, make_trackers(options.trackers))
        self.engine = _set_up(plan, options, self.recorder)
        self.selector = _selector(plan, self.engine, self.trace)
        self.held_out = Measurements(self.engine, self.trace, self.spec)
        self.checkpoints = Checkpoints(self.spec, self.engine, self.trace, self.selector, options.save_seconds)
        if start or options.resume:
            with self._blamed(), offered(start or Path()):
                self.checkpoints.load(start, options.origin)
        self.first_step, self._stop, self._agreed = self.step, Stop(), Agreed(options.ranks)

    @property
    def step(self) -> int:
        """Updates of the task so far; it decreases when a trial starts again from an earlier state."""
        return self.engine.state.step

    @property
    def over(self) -> bool:
        """True if all steps are done, or the selector or the measurements stopped the run early."""
        if self.step >= self.spec.steps or self.held_out.stopped:
            return True
        return self.selector is not None and self.selector.stopped

    def run(self) -> Result:
        """Run to the end, to its pause, or until interrupted; before the end, the result's status is ``KILLED``.

        Raises:
            RunFailed: for an error in a user's strategy or task.
            KeyboardInterrupt: if interrupted twice; the run can be resumed from its last checkpoint.
        """
        options = self.options
        pause = self.spec.steps if options.pause is None else options.pause
        with self._stop.heard():
            if options.records:
                self.recorder.begin(self.plan, options.store, options.name, options.resume, options.root)
            try:
                if self.step == 0 and not self.held_out.before:
                    self._first()
                if not self.options.ranks:
                    self._agreed(self._stop.asked, False)
                while not (self.over or self.step >= pause or self._agreed.stop):
                    with self._blamed():
                        self.engine.step()
                    self._between()
                return self._end()
            except KeyboardInterrupt:
                self.recorder.stop("KILLED", points=False)
                raise
            except RankFailed as why:
                raise RankFailed(f"{why}{_elsewhere(why, self.recorder)}", why.status, why.lost) from why
            except RunFailed as why:
                kept = self._fail()
                raise RunFailed(f"{why} The traceback is in {kept}." if kept else str(why)) from why
            except Exception:  # a state that cannot be saved, a full disk, or a bug in recopt
                with suppress(Exception):
                    self._fail()
                raise

    def _first(self) -> None:
        """Save, measure and score before the first step, and save what was measured."""
        self._save()
        with self._blamed():
            self.held_out.measure("test")
            if self.selector:
                with self._stop.at_once():
                    self.selector.score(self.engine.state)
        self._save()

    def _between(self) -> None:
        """Measure, score, report and save after a step, as due."""
        with self._blamed():
            if state := self.held_out.due():
                self.held_out.measure("valid", state)
            if self.selector and (state := self.selector.due()):
                with self._stop.at_once():
                    self.selector.score(state)
        if self.options.progress:
            self.options.progress(self)
        self.recorder.keep_up()
        self._agreed(self._stop.asked, self.checkpoints.due)
        if self._agreed.save:
            self._save()

    def _save(self) -> None:
        if self.options.track:
            self.checkpoints.save(self.recorder.folder)
            if link := self.options.ranks.link:
                link.note_run(self.recorder.run_id)

    def _end(self) -> Result:
        """The result of a run that is over or interrupted, after its record is complete.

        An interrupted run may be resumed, so only what can no longer be taken back is recorded of it: no trial that is
        still open, no measurement at its end, and no summary.
        """
        engine, folder, over = self.engine, self.recorder.folder, self.over
        engine.keep_up()
        self._save()
        if over:
            engine.flush()
        with self._blamed():
            after = self.held_out.measure("test", record=over)
            with self._stop.at_once() if over else nullcontext():
                chosen = self.selector.end(report=over) if self.selector else None
        stack = self.plan.graph.describe()
        result = Result(
            self.spec, stack, self.trace, self.held_out.before, after, by_slot(engine, chosen), engine.budget,
            "FINISHED" if over else "KILLED", engine, self.recorder.run_id, folder, chosen,
        )  # fmt: skip
        result.verdicts = verdicts(view_of(result))
        if self.options.track:
            self.checkpoints.finish(folder, chosen)
        if folder:
            write_report(result)
            write_export(engine, self.spec, folder / "export", self.trace, chosen)
            if over:
                write_schedules(engine, self.trace, folder)
        if over:
            self.recorder.finish(result)
        else:
            self.recorder.stop("KILLED")
        return result

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turn an error in a user's code, unless it is a RecoptError, into RunFailed with the place at fault."""
        try:
            yield
        except RecoptError:
            raise
        except (Exception, SystemExit) as why:
            raise RunFailed(_failure(why, f"Step {self.step + 1}", self.plan)) from why

    def _fail(self) -> Path | None:
        """Mark the run as failed, and save a checkpoint and the current traceback; returns the traceback's file."""
        kept = keep_traceback(self.recorder.folder)
        if kept and not self.options.ranks:
            with suppress(RecoptError):  # a state that cannot be saved, possibly the cause of the failure
                self.checkpoints.save(kept.parent)
        self.recorder.stop("FAILED")
        return kept


def _start(options: RunOptions) -> Path | None:
    """The folder of the checkpoint to resume from; None for a new run."""
    if options.resume is None:
        return options.saved
    if not options.track:
        raise RecoptError("A run that is not recorded cannot be resumed: leave --no-track out.")
    if not options.records:
        return None
    return working_folder(find_run(options.store, options.resume, options.root), options.store, options.root)


def _set_up(plan: Plan, options: RunOptions, recorder: RunRecorder) -> Engine:
    """Make the engine of a run; an error in a user's code is recorded as a failed run.

    Raises:
        RecoptError: for a plan that cannot work; RunFailed for an error in a user's strategy or task.
    """
    try:
        engine = make_engine(plan.spec, plan.graph, plan.task, recorder.trace.add, options.ranks)
        check(plan.spec, engine)  # before anything is recorded
    except RecoptError:
        raise
    except (Exception, SystemExit) as why:
        if options.records and not options.resume:
            recorder.begin(plan, options.store, options.name, options.resume, options.root)
        kept = keep_traceback(recorder.folder)
        recorder.stop("FAILED")
        where = f" The traceback is in {kept}." if kept else ""
        raise RunFailed(_failure(why, "Setting up the run", plan) + where) from why
    return engine


def _selector(plan: Plan, engine: Engine, trace: Trace) -> Selector | None:
    """The selector of the exported values, which adds its scores to the trace; None if the plan has none."""

    def note(score: Score) -> None:
        trace.add(0, score.step, {"choose_score": score.mean, "choose_diverged": float(score.diverged)})

    return Selector(plan.spec.choose, engine, plan.task, note) if plan.spec.choose else None


def _elsewhere(why: RankFailed, recorder: RunRecorder) -> str:
    """Record that another process failed, or that it is gone; the rest of the sentence on that."""
    if not why.lost:
        kept = keep_traceback(recorder.folder)
        recorder.stop("FAILED")
        return f" The traceback is in {kept}." if kept else ""
    recorder.stop("KILLED", points=False)
    goes_on = "goes on from the last checkpoint, as torchrun itself does with --max-restarts."
    return f" 'recopt run --resume {recorder.run_id}' {goes_on}" if recorder.run_id else ""


def _failure(why: BaseException, when: str, plan: Plan) -> str:
    return f"{failure_message(why, when, [type(plan.task), *(type(s) for s in plan.graph.slots.values())])}."
