"""Sweeps: one run with many settings, by a grid, at random, or by a zero-order strategy, on any number of workers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checking.arguments import checked
from ..checking.errors import RecoptError
from ..search.executor import Executor
from ..search.executors import make_executor
from ..stacks.listed import in_notation
from ..tracking.mlflow.address import address_of
from ..tracking.mlflow.runs import find_resumable, working_folder
from ..tracking.mlflow.store import RUNS
from .conduct import JOURNAL, Conduct, trial_journal
from .planning import SweepPlan, plan_sweep
from .record import SweepRecord
from .result import SPEC, Sweep, SweptTrial
from .schedule import Part
from .summary import trial_of, updates
from .sweep_spec import SweepSpec, make_sweep_spec, read_sweep_spec

__all__ = [
    "Sweep", "SweepPlan", "SweepSpec", "SweptTrial", "make_sweep_spec", "plan_sweep", "read_sweep_spec", "resumed",
    "run_sweep", "sweep",
]  # fmt: skip

Progress = Callable[[str, int, int], None]


@checked
def sweep(
    task: str | Path, stack: str | Path | Sequence[str] | None = None, *,
    over: Mapping[str, Any] | Sequence[str], by: str = "random",
    trials: int | None = None, repeat: int = 1, score: str = "loss", asha: bool | str | Mapping[str, Any] | None = None,
    steps: int | None = None, depth: int | None = None, seed: int = 0, tasks: int | None = None,
    settings: Sequence[str] = (), device: str | None = None, dtype: str | None = None, measure: int | None = None,
    choose: str | Mapping[str, Any] | None = None, plugins: Sequence[str | Path] = (), executor: str | None = None,
    workers: int | None = None, address: str | None = None, threads: int | None = None,
    output: str | Path | None = None, store: str | Path | None = None, track: bool = True, name: str | None = None,
    progress: Progress | None = None,
) -> Sweep:  # fmt: skip
    """Try a run with many settings, as ``recopt sweep`` does.

    ``task``, ``stack``, ``steps``, ``depth``, ``seed``, ``tasks``, ``settings``, ``device``, ``dtype``, ``measure``,
    ``choose`` and ``plugins`` are the run's, as for :func:`recopt.run`, but ``stack`` in words, which may be a list of
    names, and may be left out if it is searched over.

    Args:
        over: the values of each setting, ``{"adam.lr": "1e-4..1", "stack": ["adam", "sgd"]}``, or names of
            hyperparameters with a usual range (see :func:`recopt.search.ranges.axis`).
        by: ``"grid"``, ``"random"``, or a zero-order strategy.
        trials: number of settings to try; 40 if not given, and as many as there are for a grid.
        repeat: runs of each trial, with seeds of their own.
        score: ``"loss"`` or the task's metric on held-out data, or another that a run has.
        asha: stops trials early that are behind: True, or ``"eta=3, first=50"``.
        executor: ``"inline"``, ``"processes"`` or ``"ray"``; the trials' numbers are the same by each.
        workers: number of trials at the same time; ``threads`` of torch for each.
        address: that of a Ray cluster.
        output: a folder for the tables and the picture.
        store: an MLflow address, or the path of a database file; None for ``runs/mlflow.db``.
        track: False records nothing.
        progress: called with a description of the work, the amount done, and the total.

    Raises:
        RecoptError: before anything runs, for arguments that cannot work.
    """
    run = {
        "task": str(task), "stack": None if stack is None else _in_words(stack), "steps": steps, "depth": depth,
        "tasks": tasks, "settings": list(settings) or None, "device": device, "dtype": dtype, "measure": measure,
        "choose": choose, "plugins": [str(place) for place in plugins] or None,
    }  # fmt: skip
    spec = make_sweep_spec({
        **{key: value for key, value in run.items() if value is not None}, "seed": seed, "by": by, "trials": trials,
        "over": _over(over) if isinstance(over, Mapping) else list(over), "repeat": repeat, "score": score,
        "asha": asha or None,
    }, "what was given")  # fmt: skip
    plan = plan_sweep(spec, "what was given")
    with make_executor(executor, workers, address, threads) as made:
        return run_sweep(plan, made, output=output, store=address_of(store), track=track, name=name,
                         progress=progress)  # fmt: skip


def _in_words(stack: object) -> str:
    """A stack as text. Raises RecoptError for one of objects, which no other process could make."""
    found = in_notation(stack)
    if not isinstance(found, str | Path):
        raise RecoptError("A sweep takes its stack in words, as 'adam/hypergradient' or ['adam', 'hypergradient'].")
    return str(found)


def _over(over: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are searched over, with stacks as text."""
    return {
        key: [_in_words(one) for one in values] if key == "stack" and isinstance(values, list | tuple) else values
        for key, values in over.items()
    }


def run_sweep(
    plan: SweepPlan, executor: Executor, *, output: str | Path | None = None, store: str | None = None,
    track: bool = True, name: str | None = None, resume: str | None = None, progress: Progress | None = None,
    root: Path = RUNS,
) -> Sweep:  # fmt: skip
    """Carry out a sweep, or go on with run ``resume`` of it.

    One that is interrupted ends as ``KILLED``, with what it has.
    """
    record = SweepRecord(plan, store, name, resume, root) if track else None
    parts = record.parts if record else Path(tempfile.mkdtemp(prefix="recopt-sweep-"))
    conduct = Conduct(plan, executor, trial_journal(record.folder / JOURNAL if record else None), parts)
    conduct.told = _telling(conduct, record, progress)
    try:
        conduct.run()
    except KeyboardInterrupt:
        executor.close()
        found = _result(conduct, record, "KILLED")
        if record:
            record.stop("KILLED")
        return found
    except Exception:
        if record:
            record.stop("FAILED")
        raise
    finally:
        if not record:
            shutil.rmtree(parts, ignore_errors=True)
    found = _result(conduct, record, "FINISHED")
    if output is not None:
        found.folder = Path(output)
        found.save(Path(output))
    if record:
        if plan.schedule.origins and (kept := conduct.folder(found.ranked[0].number - 1, 0)) and Path(kept).is_dir():
            shutil.copytree(kept, record.folder / "best", dirs_exist_ok=True)
        record.finish(found)
        shutil.rmtree(record.parts, ignore_errors=True)
    return found


def _telling(conduct: Conduct, record: SweepRecord | None, progress: Progress | None) -> Callable[[Part], None]:
    spec, done = conduct.plan.spec, set[Part]()

    def tell(part: Part) -> None:
        done.add(part)
        if record:
            record.trial(trial_of(conduct, part.trial, over=False))
        if progress:
            total = max(spec.trials or 0, len(conduct.plan.schedule.trials)) if not spec.asha else len(done)
            progress(f"trials by {spec.by}", len(done), total)

    return tell


def _result(conduct: Conduct, record: SweepRecord | None, status: str) -> Sweep:
    made, whole = updates(conduct)
    over = status == "FINISHED"
    trials = [trial_of(conduct, number, over) for number in range(len(conduct.plan.schedule.trials))]
    found = Sweep(conduct.plan, trials, made, whole, status)
    if record:
        found.run_id, found.folder = record.run_id, record.folder
    return found


def resumed(ref: str, store: str | None = None, root: Path = RUNS) -> tuple[SweepPlan, str]:
    """The plan and the id of a recorded sweep, to go on with.

    Raises:
        RecoptError: if there is no such run, or it is no sweep.
    """
    found = find_resumable("sweep", store, ref, root)
    file = working_folder(found, store, root) / SPEC
    return plan_sweep(make_sweep_spec(read_sweep_spec(file), str(file)), str(file)), found.id
