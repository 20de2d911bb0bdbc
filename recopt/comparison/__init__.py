"""Stacks and tuned baselines on the same tasks, from the same starts, on the same batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..build import make_task, place
from ..errors import RecoptError, unknown
from ..graph import Graph
from ..plan import plan_of, task_named
from ..task import Task
from ..tracking import RUNS, open_store
from .competitors import Competitor, Training, contender, stacked
from .result import Comparison, Entry, Figures, break_even
from .runs import CAP, DIVERGED, How, Runs, repeated, run_all
from .series import EACH, Line, Row, Series, carry_out_each, read_rows
from .series import save as save_series
from .spec import BASELINES, CompareSpec, Contender, make_compare_spec, read_compare_spec, report_seeds, tuning_seeds
from .training import Progress, Trainee, Trainer, trainee
from .tuning import Baseline, Tuned, baseline, tune

__all__ = [
    "BASELINES", "CAP", "DIVERGED", "EACH", "CompareSpec", "Comparison", "Contender", "Entry", "Figures", "Line",
    "Row", "Runs", "Series", "Trainer", "Training", "break_even", "carry_out", "carry_out_each", "compare",
    "make_compare_spec", "read_compare_spec", "read_rows", "report_seeds", "save_series", "tuning_seeds",
]  # fmt: skip


def compare(
    task: str | Task, stacks: str | Graph | Sequence[str | Graph | Mapping[str, Any]] = (), *, seeds: int = 100,
    steps: int = 100, baselines: Sequence[str] = BASELINES, tune: int = 40, tune_tasks: int = 32,
    measure: Literal["sum", "final"] = "sum", reference: str | None = None, seed: int = 0, guards: bool = False,
    device: str = "cpu", dtype: str = "float32", threads: int | None = None, plugins: Sequence[str | Path] = (),
    output: str | Path | None = None, store: str | None = None, track: bool = True, name: str | None = None,
    progress: Progress | None = None,
) -> Comparison:  # fmt: skip
    """Compare stacks with each other and with tuned baselines, as ``recopt compare`` does.

    Args:
        task: a name such as ``"quadratic(dim=10)"``, a ``.py`` file, or a :class:`recopt.Task`.
        stacks: in stack notation, folders that ``recopt export`` wrote, graphs, or mappings with ``stack``, ``name``,
            ``settings`` and ``trained``, or with a ``run`` that trains one first (see :class:`Contender`).
        seeds: tasks that the figures are of; ``steps``: updates of each.
        baselines: rules to tune (see :func:`recopt.comparison.tuning.baseline`); none for stacks only.
        tune, tune_tasks: trials of each baseline, and the tasks that each trial is scored on.
        measure: what is compared and tuned for: the ``sum`` of the losses, or the ``final`` one.
        seed: chooses the tasks; see :func:`report_seeds`.
        reference: the competitor that the others are compared with; the best baseline if not given.
        guards: whether the engine's guards act, for all alike.
        threads: of torch's arithmetic, meanwhile.
        output: a folder to write the tables, curves and picture into.
        store: an MLflow address; None for ``runs/mlflow.db``. ``track=False`` records nothing.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        RecoptError: for what cannot work, before anything runs.
        RunFailed: for an error in a strategy or task.
    """
    given = [stacks] if isinstance(stacks, str | Graph) else list(stacks)
    graphs = {f"stack {n}": item for n, item in enumerate(given, 1) if isinstance(item, Graph)}
    named = [f"stack {n}" if isinstance(item, Graph) else item for n, item in enumerate(given, 1)]
    about = task_named(task) if isinstance(task, str) else plan_of(task, "sgd").spec.task
    spec = make_compare_spec({
        "task": about, "stacks": named, "baselines": list(baselines), "steps": steps, "seeds": seeds, "seed": seed,
        "tune": tune, "tune_tasks": tune_tasks, "measure": measure, "reference": reference, "guards": guards,
        "device": device, "dtype": dtype, "plugins": [str(folder) for folder in plugins],
    })  # fmt: skip
    made = None if isinstance(task, str) else task
    return carry_out(
        spec, task=made, graphs=graphs, threads=threads, output=output, store=store, track=track, name=name,
        progress=progress,
    )  # fmt: skip


def carry_out(
    spec: CompareSpec, *, task: Task | None = None, graphs: Mapping[str, Graph] | None = None,
    threads: int | None = None, output: str | Path | None = None, store: str | None = None, track: bool = True,
    name: str | None = None, progress: Progress | None = None, root: Path = RUNS, trainer: Trainer | None = None,
) -> Comparison:  # fmt: skip
    """Carry out the comparison ``spec``; ``task`` and ``graphs`` (by the stack's text) stand for what is no word.

    With the same ``trainer`` for several comparisons, what is trained for one of them is not trained for the next.
    """
    import torch

    place(spec.device)
    family = task or make_task(spec.task, report_seeds(spec)[0], spec.plugins)
    rivals = [_rival(asked, family, spec, graphs or {}) for asked in spec.stacks]
    bases = [baseline(text, spec.plugins) for text in spec.baselines]
    _distinct([rival.name for rival in rivals] + [base.name for base in bases], spec.reference)
    _writable(output)
    if track:
        open_store(store, root, create=True)  # refused now, and not when all is done
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        told = progress or (lambda what, done, total: None)
        trainer = trainer or Trainer(store, track, root)
        ready = [trainer.train(rival, told) if isinstance(rival, Trainee) else rival for rival in rivals]
        found = _compared(spec, family, ready, bases, told)
    finally:
        torch.set_num_threads(before)
    if output is not None:
        found.folder = found.save(output)
    if track:
        from .record import record

        tracker = record(found, store, name, root)
        found.run_id, found.folder = tracker.run_id, found.folder or tracker.folder
    return found


def _rival(asked: Contender, task: Task, spec: CompareSpec, graphs: Mapping[str, Graph]) -> Competitor | Trainee:
    if asked.run is not None:
        return trainee(asked, spec)
    if graph := graphs.get(asked.stack or ""):
        return stacked(asked.name or graph.describe(), graph, spec)
    return contender(asked, task, spec)


def _writable(output: str | Path | None) -> None:
    try:
        if output is not None:
            Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise RecoptError(f"{output} cannot be written ({why.strerror}): choose another place.") from None


def _distinct(names: Sequence[str], reference: str | None) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RecoptError(f"Two competitors are called '{name}': give one of them another 'name' in a spec.")
    if reference is not None and reference not in names:
        raise unknown("competitor", reference, names, "as the 'reference'")


def _compared(
    spec: CompareSpec, task: Task, rivals: Sequence[Competitor], bases: Sequence[Baseline], progress: Progress
) -> Comparison:
    how = How(spec.steps, spec.device, spec.dtype)
    tested = report_seeds(spec)
    entries = []
    for rival in rivals:
        entries.append(Entry(rival, _run(rival, task, tested, how, progress)))
    tuned = []
    for base in bases:
        best = _tuned(base, spec, task, how, progress)
        runs = _run(best.competitor, task, tested, how, progress)
        entries.append(Entry(best.competitor, runs, best.trials, best.score))
        tuned.append(best)
    leader = min(tuned, key=lambda one: one.score).competitor.name if tuned else rivals[0].name
    return Comparison(spec, entries, spec.reference or leader)


def _run(rival: Competitor, task: Task, seeds: Sequence[int], how: How, progress: Progress) -> Runs:
    graphs, parts = rival.graphs, list[Runs]()

    def told(done: int) -> None:
        progress(f"running {rival.name}", len(parts) * len(seeds) + done, len(graphs) * len(seeds))

    for graph in graphs:
        parts.append(run_all(rival.name, graph, task, seeds, how, progress=told))
    return repeated(parts)


def _tuned(base: Baseline, spec: CompareSpec, task: Task, how: How, progress: Progress) -> Tuned:
    seeds = tuning_seeds(spec)

    def score(rival: Competitor) -> float:
        runs = run_all(rival.name, rival.graph, task, seeds, how, test=False)
        return float(runs.score(spec.measure).mean())

    def told(done: int) -> None:
        progress(f"tuning {base.text}", done, spec.tune)

    return tune(base, spec.tune, spec.steps, spec.seed, score, len(seeds), spec.guards, told)
