"""``recopt.run``: a run from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..checking.arguments import checked
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from ..levels.graph import Graph
from ..tracking.mlflow.address import address_of
from ..tracking.trackers import Tracker
from .plan import plan
from .progress import Live
from .result import Result
from .session import RunOptions, Session


@checked
def run(
    task: str | Path | Task | None = None,
    stack: str | Path | Graph | Strategy | Sequence[str | Strategy] | None = None, *,
    steps: int | None = None, depth: int | None = None, seed: int | None = None, tasks: int | None = None,
    settings: Sequence[str] = (), device: str | None = None, dtype: str | None = None, measure: int | None = None,
    choose: str | Mapping[str, Any] | None = None,
    until: str | None = None, patience: int | None = None, replay: str | None = None, stretch: bool = False,
    plugins: str | Path | Sequence[str | Path] = (), store: str | Path | None = None, track: bool = True,
    name: str | None = None, trackers: Sequence[str | Tracker] = (),
    progress: bool | Callable[[Session], None] | None = True,
) -> Result:  # fmt: skip
    """Run a graph of levels on a task, as ``recopt run`` does.

    Args:
        task: a name such as ``"digits(net=cnn)"``, a ``.py`` file, or a :class:`recopt.Task`.
        stack: stack notation, ``"adam(lr=1e-3)/hypergradient"``; a strategy, or a list of names and strategies,
            innermost first; or a :class:`recopt.Graph`.
        steps: updates of the task; 1,000 if not given.
        depth: repeat the last strategy of the stack up to this depth.
        tasks: number of tasks to train side by side.
        settings: ``"level2.every=20"``, ``"adam.lr=0.1"``, ``"task.batch_size=64"`` …
        device: ``"cpu"``, ``"cuda"`` …, or ``"auto"`` for an accelerator if there is one.
        dtype: ``"float32"`` or ``"float64"``.
        measure: steps between two measurements on held-out data; 0 measures only at the start and the end.
        choose: how to choose the exported values: ``"every=500, tasks=64, patience=5"`` or a mapping (see
            :class:`recopt.running.spec.SelectionSettings`); None exports the last ones.
        until: ends the run early at a bound on what ``measure`` measures: ``"accuracy>0.97"``, ``"loss<0.1"``.
        patience: ends the run after this number of measurements in a row without a lower held-out loss.
        replay: a finished run (its id, name or folder), whose hyperparameters are taken as they went there, instead of
            being searched for. What is not given, task and stack too, is as it was in that run.
        stretch: stretches that schedule to this run's ``steps``, instead of holding its last values.
        plugins: folders and files with strategies and tasks, or one, searched first.
        store: an MLflow address, or the path of a database file; None for ``runs/mlflow.db``.
        track: False records nothing.
        trackers: what records the run besides MLflow, in its folder: ``"jsonl"``, ``"tensorboard"`` or ``"wandb"``, or
            objects of your own (:class:`recopt.Tracker`).
        progress: True shows the steps, the loss and the hyperparameters while it runs, in a terminal or a notebook; a
            function is called after every step with the session.

    Raises:
        RecoptError: before anything runs, for arguments that cannot work.
        RunFailed: for an error in a strategy or task; the traceback is kept in the run's folder.
    """
    made = plan(
        task, stack, seed=seed, depth=depth, settings=settings, steps=steps, tasks=tasks, device=device, dtype=dtype,
        measure=measure, choose=choose, until=until, patience=patience, replay=replay, stretch=stretch or None,
        store=address_of(store),
        plugins=[str(place) for place in ([plugins] if isinstance(plugins, str | Path) else plugins)] or None,
    )  # fmt: skip
    with Live(lines=False) if progress is True else nullcontext() as live:
        told = live.show if live else progress if callable(progress) else None
        options = RunOptions(store=address_of(store), track=track, name=name, progress=told, trackers=trackers)
        session = Session(made, options)
        if live:
            live.begin(session)
        return session.run()
