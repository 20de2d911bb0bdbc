"""``recopt.ablate``: whether each level of a stack pays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ..checking.arguments import checked
from ..checking.errors import RecoptError
from ..contracts.task import Task
from ..running.plan import plan, task_named
from ..running.spec import read_spec
from ..search.executor import Executor
from ..search.executors import make_executor
from ..stacks.listed import in_notation
from ..tracking.mlflow.address import address_of
from ..tracking.mlflow.store import RUNS
from . import run_comparison
from .ablate_spec import AblateSpec, make_ablate_spec
from .ablation import Ablation
from .record import resumable
from .training import Progress


@checked
def ablate(
    task: str | Path | Task, stack: str | Sequence[str], *, depth: int | None = None, seeds: int = 10,
    steps: int = 500, scales: Sequence[float] = (0.1, 10.0), measure: Literal["sum", "final"] = "sum", seed: int = 0,
    settings: Sequence[str] = (), guards: bool = True, device: str = "cpu", dtype: str = "float32",
    executor: str | None = None, workers: int | None = None, address: str | None = None, threads: int | None = None,
    plugins: str | Path | Sequence[str | Path] = (), output: str | Path | None = None, store: str | Path | None = None,
    track: bool = True, name: str | None = None, progress: Progress | None = None,
) -> Ablation:  # fmt: skip
    """Run a stack cut off at every depth, and tell whether each level pays, as ``recopt ablate`` does.

    Every depth has the same evaluations of the same tasks, from the same starts, with the same batches. ``settings``,
    ``device``, ``dtype`` and ``plugins`` are as for :func:`recopt.run`; all else that is not said here is as for
    :func:`recopt.compare`.

    Args:
        stack: in words, of two levels or more.
        depth: repeat the last strategy of the stack up to this depth.
        seeds: number of tasks, 5 or more.
        steps: evaluations of each run, those of trials included.
        scales: factors on the start values of each depth's two highest levels, one at a time: their rates, or else all
            their positive hyperparameters.

    Raises:
        RecoptError: before anything runs, for arguments that cannot work.
        RunFailed: for an error in a strategy or task.
    """
    words = in_notation(stack)
    if not isinstance(words, str):
        raise RecoptError("An ablation takes its stack in words, as 'adam/hypergradient' or ['adam', 'hypergradient'].")
    made = task if isinstance(task, Task) else None
    about = plan(made, "sgd").spec.task if made else task_named(str(task))
    folders = [str(place) for place in ([plugins] if isinstance(plugins, str | Path) else plugins)]
    spec = make_ablate_spec({
        "task": about, "stack": words, "seeds": seeds, "steps": steps, "scales": list(scales), "measure": measure,
        "seed": seed, "settings": list(settings), "guards": guards, "device": device, "dtype": dtype,
        "plugins": folders,
    }, "what was given", depth)  # fmt: skip
    with make_executor(executor, workers, address, threads) as doing:
        return run_ablation(spec, doing, task=made, output=output, store=address_of(store), track=track, name=name,
                            progress=progress)  # fmt: skip


def run_ablation(spec: AblateSpec, executor: Executor | None = None, **how: Any) -> Ablation:
    """Run the ablation ``spec``; ``how`` and errors are those of :func:`recopt.comparison.run_comparison`."""
    return cast(Ablation, run_comparison(spec, executor, result=Ablation, **how))


def resumed_ablation(ref: str, store: str | None = None, root: Path = RUNS) -> tuple[AblateSpec, str]:
    """The spec and the id of a recorded ablation, to go on with.

    Raises:
        RecoptError: if there is no such run, it is no ablation, or is finished.
    """
    file, run = resumable(Ablation.KIND, ref, store, root)
    return make_ablate_spec(read_spec(file), str(file)), run
