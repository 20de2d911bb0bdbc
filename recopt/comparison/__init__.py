"""Comparison of stacks and tuned baselines on the same tasks, from the same starts, with the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from ..checking.arguments import checked
from ..checking.errors import DataMissing, writing
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from ..levels.graph import Graph
from ..running.plan import plan, task_named
from ..running.repeats import CAP, DIVERGED, Runs
from ..search.executor import Executor, Inline
from ..search.executors import make_executor
from ..search.jobs import RemoteTraceback, torch_threads
from ..search.journal import Journal, Journaled
from ..stacks.failures import RunFailed
from ..stacks.listed import graph_listed, in_notation
from ..tracking.mlflow.address import address_of
from ..tracking.mlflow.store import RUNS
from .compare_spec import (
    BASELINES,
    CompareSpec,
    CompetitorSpec,
    make_compare_spec,
    read_compare_spec,
    report_seeds,
    tuning_seeds,
)
from .comparison import Comparison
from .competitors import Competitor, Training
from .contest import Contest, prepare
from .figures import Entry, Figures
from .record import CompareRecord, resumed
from .series import EACH, Planned, Series, plan_series, run_series, save_series
from .training import Progress, Trainer, Untrained

__all__ = [
    "BASELINES", "CAP", "DIVERGED", "EACH", "CompareSpec", "Comparison", "CompetitorSpec", "Entry", "Figures",
    "Planned", "Runs", "Series", "Stopped", "Trainer", "Training", "compare", "make_compare_spec", "plan_series",
    "read_compare_spec", "report_seeds", "resumed", "run_comparison", "run_series", "save_series", "tuning_seeds",
]  # fmt: skip


Made = Graph | Strategy


class Stopped(KeyboardInterrupt):
    """A comparison was interrupted.

    Attributes:
        run_id: the run to go on with; None if it is not recorded.
    """

    def __init__(self, run_id: str | None) -> None:
        super().__init__()
        self.run_id = run_id


@checked
def compare(
    task: str | Task, stacks: str | Made | Sequence[str | Made | Sequence[str | Strategy] | Mapping[str, Any]] = (), *,
    seeds: int = 100, steps: int = 100, baselines: Sequence[str] = BASELINES, tune: int = 40, tune_tasks: int = 32,
    budget: Literal["steps", "evaluations"] = "steps", measure: Literal["sum", "final"] = "sum",
    reference: str | None = None, seed: int = 0, guards: bool = False,
    device: str = "cpu", dtype: str = "float32", executor: str | None = None, workers: int | None = None,
    address: str | None = None, threads: int | None = None, plugins: str | Path | Sequence[str | Path] = (),
    output: str | Path | None = None, store: str | Path | None = None, track: bool = True, name: str | None = None,
    progress: Progress | None = None,
) -> Comparison:  # fmt: skip
    """Compare stacks with each other and with tuned baselines, as ``recopt compare`` does.

    Args:
        task: a name such as ``"quadratic(dim=10)"``, a ``.py`` file, or a :class:`recopt.Task`.
        stacks: in stack notation, folders that ``recopt export`` wrote, strategies, lists of names and strategies,
            graphs, or mappings with ``stack``, ``name``, ``settings`` and ``trained``, or with a ``run`` that trains
            one first (see :class:`CompetitorSpec`).
        seeds: number of test tasks; ``steps``: updates of each, or with the other ``budget`` evaluations, those of
            trials included.
        baselines: rules to tune (see :func:`recopt.comparison.tuning.baseline`); none for stacks only.
        tune: number of trials of each baseline.
        tune_tasks: number of tasks that each trial is scored on.
        measure: the score to compare and to tune for: the ``sum`` of the losses, or the ``final`` one.
        seed: selects the tasks; see :func:`report_seeds`.
        reference: the competitor to compare the others with; the best baseline if not given.
        guards: whether the engine's guards act, for all competitors.
        executor: ``"inline"``, ``"processes"`` or ``"ray"``; the numbers are the same by each.
        workers: number of jobs at the same time; ``threads`` of torch for each (1).
        address: that of a Ray cluster.
        output: a folder for the tables, curves and picture.
        store: an MLflow address, or the path of a database file; None for ``runs/mlflow.db``.
        track: False records nothing.
        progress: called with a description of the work, the amount done, and the total.

    Raises:
        RecoptError: before anything runs, for arguments that cannot work.
        RunFailed: for an error in a strategy or task.
    """
    folders = [str(place) for place in ([plugins] if isinstance(plugins, str | Path) else plugins)]
    words, graphs = _in_words(stacks, folders)
    about = task_named(task) if isinstance(task, str) else plan(task, "sgd").spec.task
    spec = make_compare_spec({
        "task": about, "stacks": words, "baselines": list(baselines), "steps": steps, "seeds": seeds, "seed": seed,
        "budget": budget,
        "tune": tune, "tune_tasks": tune_tasks, "measure": measure, "reference": reference, "guards": guards,
        "device": device, "dtype": dtype, "plugins": folders,
    })  # fmt: skip
    made = None if isinstance(task, str) else task
    with make_executor(executor, workers, address, threads) as doing:
        return run_comparison(spec, doing, task=made, graphs=graphs, output=output, store=address_of(store),
                              track=track, name=name, progress=progress)  # fmt: skip


def _in_words(stacks: Any, folders: Sequence[str]) -> tuple[list[Any], dict[str, Graph]]:
    """The stacks as a spec has them, and the graphs of objects by the text that replaces them there."""
    given = [in_notation(stack) for stack in ([stacks] if isinstance(stacks, str | Graph | Strategy) else stacks)]
    graphs = {
        f"stack {n}": stack if isinstance(stack, Graph) else graph_listed(stack, folders=folders)
        for n, stack in enumerate(given, 1)
        if not isinstance(stack, str | Mapping)
    }
    return [f"stack {n}" if f"stack {n}" in graphs else stack for n, stack in enumerate(given, 1)], graphs


def run_comparison(
    spec: CompareSpec, executor: Executor | None = None, *, task: Task | None = None,
    graphs: Mapping[str, Graph] | None = None, output: str | Path | None = None, store: str | None = None,
    track: bool = True, name: str | None = None, progress: Progress | None = None, root: Path = RUNS,
    trainer: Trainer | None = None, resume: str | None = None, result: type[Comparison] = Comparison,
) -> Comparison:  # fmt: skip
    """Run the comparison ``spec``; ``task`` and ``graphs`` (by the stack's text) are objects that replace its text.

    Comparisons that share a ``trainer`` share what it trained; None for the ``executor`` is this process.

    Args:
        resume: the id of a recorded run of it to go on with (see :func:`resumed`): what is done is not done again.
        result: the kind of comparison that is made.

    Raises:
        RecoptError: for a spec that cannot work, or a run ``resume`` that is of another comparison.
        RunFailed: for an error in a strategy or task.
        Stopped: if it was interrupted.
    """
    contest = prepare(spec, task, graphs, progress, result)
    doing = executor or Inline()
    _check_data(contest.task)
    with _folder(output), torch_threads(doing.threads):
        record = CompareRecord(contest, store, name, resume, root, words=not (task or graphs)) if track else None
        try:
            found = _carried_out(contest, trainer or Trainer(store, track, root), doing, record)
        except KeyboardInterrupt:
            if record:
                record.stop("KILLED")
            raise Stopped(record.run_id if record else None) from None
        except RunFailed as why:
            kept = record.fail() if record else None
            told = kept and "The traceback is in" not in str(why)  # that of a training is in its own record
            raise RunFailed(f"{why} The traceback is in {kept}." if told else str(why)) from why
        except Exception:
            if record:
                record.stop("FAILED")
            raise
        try:
            if output is not None:
                found.folder = found.save(output)
        finally:  # if one of the two cannot be written, the other is complete
            if record:
                record.finish(found)
                found.run_id, found.folder = record.run_id, found.folder or record.folder
    return found


def _check_data(task: Task) -> None:
    """Raise DataMissing before anything is recorded. Any other error is raised, with its place, by the first run."""
    try:
        task.batch(0, "train")
    except DataMissing:
        raise
    except (Exception, SystemExit):
        return


def _carried_out(contest: Contest, trainer: Trainer, executor: Executor, record: CompareRecord | None) -> Comparison:
    """Train, tune and run."""
    journal = record.journal if record and record.journal else Journal[str](None, str)
    doing = Journaled(executor, journal) if record and record.journal else executor
    ready = contest.train(trainer, executor, journal, record.folder if record else None)
    stacks = [one for one in ready if isinstance(one, Competitor)]
    lost = [one for one in ready if isinstance(one, Untrained)]
    for one in lost:
        if one.name == contest.spec.reference or not (stacks or contest.baselines):
            raise RunFailed(f"In the training of '{one.name}': {one.failure.message}") from RemoteTraceback(
                f"\n{one.failure.traceback}"
            )
    if lost and record:
        record.keep(lost)
    found = contest.run(stacks, doing)
    found.left_out = {one.name: one.failure.message for one in lost}
    return found


@contextmanager
def _folder(path: str | Path | None) -> Iterator[None]:
    """Create the output folder early, to refuse a bad path before the work; remove it again if it stays empty."""
    wanted = [] if path is None else [Path(path), *Path(path).parents]
    made = [folder for folder in wanted if not folder.exists()]
    if path is not None:
        with writing(path):
            Path(path).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()
