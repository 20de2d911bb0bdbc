"""What the record of a run begins with: params and tags, its spec, the picture of its graph, plugins' sources."""

from __future__ import annotations

from pathlib import Path

from .draw import draw_file
from .export import copy_sources, copy_trained
from .plan import Plan
from .spec import Spec, write_spec
from .tracker import LevelInfo, Tracker
from .trained import Trained


def start_record(
    plan: Plan, store: str | None, *, experiment: str, name: str | None, resume: str | None, root: Path
) -> Tracker:
    """Begin to record a run, or (``resume``: its id) go on with one.

    Raises:
        RecoptError: if the store cannot be opened, or there is no such run to go on with.
    """
    spec, graph, _ = plan
    stack = graph.describe()
    tracker = Tracker.start(
        store, experiment=experiment, name=name or f"{Path(spec.task.name).stem} {stack}",
        params=_params(plan, stack), tags={"recopt.stack": stack, "recopt.task": spec.task.name},
        levels=_levels(spec), resume=resume, root_dir=root,
    )  # fmt: skip
    (tracker.folder / "spec.yaml").write_text(write_spec(spec))
    draw_file(graph, tracker.folder / "graph.svg", spec.task.name)
    keep_sources(plan, tracker.folder / "plugins")
    tracker.publish()
    return tracker


def _params(plan: Plan, stack: str) -> dict[str, str]:
    """What runs are grouped by: what was asked for, and the value that every hyperparameter starts from."""
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
        "seed": str(spec.seed), "tasks": str(spec.tasks), "device": spec.device, "dtype": spec.dtype, **chosen,
    }  # fmt: skip


def _levels(spec: Spec) -> list[LevelInfo]:
    found = []
    for number, level in enumerate(spec.levels, 1):
        told = level.model_dump(exclude_none=True, exclude={"moves", "by"})
        chosen = {key: str(value) for key, value in told.items() if value != ()}
        found.append(LevelInfo(number, level.by, spec.strategies[level.by].name, level.moves, chosen))
    return found


def keep_sources(plan: Plan, folder: Path) -> None:
    """Copies of the user's own plugins, as they were run, beside what they produced."""
    for slot in plan.graph.slots.values():
        if isinstance(slot, Trained):
            copy_trained(type(slot), folder / "strategies")
        else:
            copy_sources(type(slot), folder / "strategies")
    copy_sources(type(plan.task), folder / "task")
