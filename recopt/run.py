"""A run from start to end: built from a spec, recorded, checkpointed, resumable."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkpoint
from .build import make_engine, make_level, make_strategies, make_task, stack_levels, with_settings
from .draw import draw_svg
from .engine import Engine
from .errors import RecoptError
from .export import write_export
from .graph import Graph
from .held_out import measure
from .plots import save_plots
from .plugins import load_strategy, load_task, source_of
from .result import Result, found_hyperparameters, summary
from .spec import Named, Spec, deepen, make_spec, strategies_of, write_spec
from .stack import parse
from .strategy import Strategy
from .task import Task
from .trace import Trace, load_trace, save_trace
from .tracker import LevelInfo, Tracker
from .tracking import RUNS

EXPERIMENT = "recopt"
CHECKPOINT_SECONDS = 15.0
FLUSH_SECONDS = 1.0


class RunFailed(RecoptError):
    """An error in a user's strategy or task; the run is marked failed, with its traceback and checkpoint kept."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out, as opposed to what it computes.

    Attributes:
        store: an MLflow address; None for ``runs/mlflow.db``.
        track: whether to record in MLflow at all.
        progress: called often with the engine and the trace.
    """

    store: str | None = None
    track: bool = True
    experiment: str = EXPERIMENT
    name: str | None = None
    resume: str | None = None
    progress: Callable[[Engine, Trace, Tracker | None], None] | None = None
    root: Path = RUNS


def plan(
    task: str, stack: str, *, depth: int | None = None, settings: Sequence[str] = (), **others: Any
) -> tuple[Spec, Graph, Task]:
    """A run from its words: the resolved spec, the graph and the task.

    Args:
        task: a name or a ``.py`` file, with options in brackets: ``digits(model=cnn)``.
        stack: in stack notation, innermost first.
        depth: repeat the last strategy of the stack up to so many levels.
        settings: ``level2.every=20``, ``adam.lr=0.1``, ``task.batch_size=64`` …
        others: fields of :class:`recopt.spec.Spec`.

    Raises:
        RecoptError: for anything in it that is unknown or cannot work.
    """
    layers = deepen(parse(stack), depth)
    found = strategies_of(layers)
    named = _task_named(task)
    folders = list(others.get("plugins") or [])
    rough = make_strategies(found, 0, folders)
    levels = [level.model_dump(exclude_unset=True, mode="json") for level in stack_levels(layers, rough)]
    data: dict[str, Any] = {
        "task": named.model_dump(),
        "strategies": {slot: n.model_dump() for slot, n in found.items()},
        "levels": levels,
        **{k: v for k, v in others.items() if v is not None},
    }
    return resolve(with_settings(data, settings))


def _task_named(text: str) -> Named:
    if text.endswith(".py"):
        return Named(name=text)
    name, bracket, rest = text.partition(".py(")
    if bracket:
        term = parse(f"file({rest}")[0][0]
        return Named(name=f"{name}.py", settings=term.settings)
    layers = parse(text)
    if len(layers) != 1 or len(layers[0]) != 1 or layers[0][0].only:
        raise RecoptError(f"'{text}' should name one task, like digits or digits(model=cnn).")
    return Named(name=layers[0][0].name, settings=layers[0][0].settings)


def resolve(data: Mapping[str, Any], where: str = "the spec") -> tuple[Spec, Graph, Task]:
    """A spec's mapping, checked and complete, with its graph and task."""
    for number, level in enumerate(data.get("levels") or [], 1):
        if isinstance(level, Mapping):
            make_level(level, number)
    spec = make_spec(data, where)
    slots = make_strategies(spec.strategies, spec.seed, spec.plugins)
    task = make_task(spec.task, spec.seed, spec.plugins)
    graph = Graph(spec.levels, slots, labels=spec.labels)
    every = spec.measure if spec.measure is not None else max(1, spec.steps // 10)
    return spec.model_copy(update={"levels": graph.levels, "measure": every}), graph, task


class Session:
    """One run being carried out.

    Raises:
        RecoptError: from the constructor, for what cannot work, before anything runs.
    """

    def __init__(self, spec: Spec, graph: Graph, task: Task, options: Options) -> None:
        self.spec, self.graph, self.options = spec, graph, options
        self.trace = Trace(spec.steps)
        self.engine = make_engine(spec, graph, task, self.trace.add)
        self.before: dict[str, float] = {}
        self.tracker: Tracker | None = None
        self._saved = self._flushed = time.monotonic()
        self._measured = -1
        if options.track:
            self.tracker = self._start_tracker()
        if options.resume:
            self._resume()

    @property
    def folder(self) -> Path | None:
        """Where the run's files are."""
        return self.tracker.folder if self.tracker else None

    # recording

    def _start_tracker(self) -> Tracker:
        spec, stack = self.spec, self.graph.describe()
        params = {
            "task": spec.task.name, "stack": stack, "depth": str(len(spec.levels)), "steps": str(spec.steps),
            "seed": str(spec.seed), "tasks": str(spec.tasks), "device": spec.device, "dtype": spec.dtype,
            **{f"task.{k}": str(v) for k, v in spec.task.settings.items()},
            **{f"{slot}.{k}": str(v) for slot, named in spec.strategies.items() for k, v in named.settings.items()},
        }  # fmt: skip
        levels = []
        for number, level in enumerate(spec.levels, 1):
            chosen = {k: str(v) for k, v in level.model_dump(exclude_none=True).items()}
            levels.append(
                LevelInfo(number, f"level{number} {level.by}", spec.strategies[level.by].name, level.moves, chosen)
            )
        name = self.options.name or f"{Path(spec.task.name).stem} {stack}"
        tracker = Tracker.start(
            self.options.store, experiment=self.options.experiment, name=name, params=params,
            tags={"recopt.stack": stack, "recopt.task": spec.task.name}, levels=levels,
            resume=self.options.resume, root_dir=self.options.root,
        )  # fmt: skip
        (tracker.folder / "spec.yaml").write_text(write_spec(spec))
        draw_svg(self.graph, tracker.folder / "graph.svg")
        for kind, names in (("strategies", spec.strategies.values()), ("task", [spec.task])):
            self._keep_sources(tracker.folder, kind, [n.name for n in names])
        tracker.publish()
        return tracker

    def _keep_sources(self, folder: Path, kind: str, names: Sequence[str]) -> None:
        """Plugins as they were run, beside what they produced."""
        for name in names:
            found = (load_task if kind == "task" else load_strategy)(name, self.spec.plugins)
            try:
                path, text = source_of(found)
            except RecoptError:
                continue
            target = folder / "plugins" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def _resume(self) -> None:
        folder = self.folder
        if folder is None:
            raise RecoptError("A run that is not recorded cannot be resumed: drop --no-track.")
        self._call(lambda: checkpoint.load(self.engine, folder / "checkpoint.safetensors"))
        if (folder / "trace.npz").is_file():
            trace = load_trace(folder / "trace.npz", self.spec.steps)
            trace.truncate(self.engine.state.step)
            self.trace = trace
        keys = [key for level, key in self.trace.keys() if level == 0 and key.startswith("test_")]
        self.before = {key.removeprefix("test_"): float(self.trace.series(0, key)[1][0]) for key in keys}

    def save(self) -> None:
        """Write the checkpoint and the trace."""
        if self.folder is None:
            return
        save_trace(self.trace, self.folder / "trace.npz")
        checkpoint.save(self.engine, self.folder / "checkpoint.safetensors")
        self._saved = time.monotonic()

    # running

    def run(self) -> Result:
        """Run to the end, or until interrupted."""
        status = "FINISHED"
        try:
            if self.engine.state.step == 0 and not self.options.resume:
                self._measure("test", first=True)
                self.save()
            while self.engine.state.step < self.spec.steps:
                self._call(self.engine.step)
                self._between()
            self.engine.hand_on(self.engine.state)
        except KeyboardInterrupt:
            status = "KILLED"
            self.save()
        after = self._measure("test")
        return self._finish(status, after)

    def _call(self, work: Callable[[], Any]) -> Any:
        """``work()``; an error in a user's code is kept with the run."""
        try:
            return work()
        except (RecoptError, KeyboardInterrupt):
            self._fail(None)
            raise
        except Exception as why:
            where = self._fail(traceback.format_exc())
            kept = f" Traceback and checkpoint: {where}." if where else ""
            raise RunFailed(f"Step {self.engine.state.step} failed: {type(why).__name__}: {why}.{kept}") from why

    def _fail(self, text: str | None) -> Path | None:
        folder = self.folder
        if folder is None or self.tracker is None:
            return None
        if text:
            (folder / "traceback.txt").write_text(text)
            self.save()
            self.tracker.log(self.trace.drain(last=True))
            self.tracker.finish("FAILED", summary(self.engine, self.trace, self.before, {}))
        return folder

    def _between(self) -> None:
        step, now = self.engine.state.step, time.monotonic()
        every = self.spec.measure
        if (
            every
            and step % every == 0
            and step != self._measured
            and not self.engine.searcher.active(self.engine.state)
        ):
            self._measured = step
            self._measure("valid")
        if self.options.progress:
            self.options.progress(self.engine, self.trace, self.tracker)
        if self.tracker and now - self._flushed > FLUSH_SECONDS:
            self._flushed = now
            self.tracker.log(self.trace.drain())
            self.tracker.flush()
        if now - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def _measure(self, split: Any, first: bool = False) -> dict[str, float]:
        values: dict[str, float] = self._call(lambda: measure(self.engine, split))
        if first:
            self.before = values
        self.trace.add(0, self.engine.state.step, {f"{split}_{k}": v for k, v in values.items()})
        return values

    def _finish(self, status: Any, after: dict[str, float]) -> Result:
        run_id, folder = None, self.folder
        if self.tracker and folder:
            self.save()
            names = {n: x.by for n, x in enumerate(self.spec.levels, 1)}
            save_plots(self.trace, folder, self.graph.describe(), names)
            write_export(self.engine, self.spec, folder / "export")
            self.tracker.log(self.trace.drain(last=True))
            self.tracker.finish(status, summary(self.engine, self.trace, self.before, after))
            run_id = self.tracker.run_id
        return Result(
            self.spec, self.graph.describe(), self.trace, self.before, after, found_hyperparameters(self.engine),
            self.engine.budget, status, self.engine, run_id, folder,
        )  # fmt: skip


def run(
    task: str | Task, stack: str | Graph, *, store: str | None = None, track: bool = True, name: str | None = None,
    progress: Callable[[Engine, Trace, Tracker | None], None] | None = None, **options: Any,
) -> Result:  # fmt: skip
    """Run a graph of levels on a task, as ``recopt run`` does.

    Args:
        task: a name such as ``"digits(model=cnn)"``, a ``.py`` file, or a :class:`recopt.Task`.
        stack: in stack notation, ``"adam(lr=1e-3)/hypergradient"``, or a :class:`recopt.Graph`.
        store: an MLflow address; None for ``runs/mlflow.db``. ``track=False`` records nothing.
        options: ``steps``, ``seed``, ``tasks``, ``depth``, ``settings``, ``device``, ``dtype``, ``measure``, ``plugins``.

    Raises:
        RecoptError: for what cannot work, before anything runs.
        RunFailed: for an error in a strategy or task, with the traceback kept beside the run.
    """
    how = Options(store=store, track=track, name=name, progress=progress)
    if isinstance(task, str) and isinstance(stack, str):
        return Session(*plan(task, stack, **options), how).run()
    return Session(*_from_objects(task, stack, options), how).run()


def _from_objects(task: str | Task, stack: str | Graph, options: dict[str, Any]) -> tuple[Spec, Graph, Task]:
    """A plan in which the task, the graph, or both, were made by the caller."""
    seed = options.get("seed", 0)
    made = (
        make_task(_task_named(task), seed, options.get("plugins") or []) if isinstance(task, str) else task.sample(seed)
    )
    if isinstance(stack, Graph):
        graph = stack
        named = {slot: Named(name=_plugin_name(s)) for slot, s in stack.slots.items()}
    else:
        stub = "quadratic"
        spec, graph, _ = plan(stub, stack, **options)
        named = dict(spec.strategies)
    kept = {k: v for k, v in options.items() if k not in ("depth", "settings") and v is not None}
    name = task if isinstance(task, str) else type(task).__name__
    spec = make_spec({"task": {"name": name}, "strategies": named, "levels": graph.levels, **kept})
    every = spec.measure if spec.measure is not None else max(1, spec.steps // 10)
    return spec.model_copy(update={"measure": every}), graph, made


def _plugin_name(strategy: Strategy) -> str:
    return type(strategy).__name__.lower()
