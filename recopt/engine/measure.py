"""Measurements on held-out data: the model as its user would use it, in evaluation mode."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.task import Split, Task
from ..levels.level import INIT
from ..levels.state import RunState
from .engine import Engine
from .live import Live
from .randomness import seeded


def settled(engine: Engine, strictly: bool = False) -> RunState:
    """The run's state, or where a zero-order level is trying something else, the state that it will go back to.

    Args:
        strictly: also where the trial is of the value that is held at present, since its window may be dropped too.
    """
    for number in reversed(engine.trials.numbers):
        search = engine.state.levels[number].search
        if search is not None and search.start is not None and (strictly or search.scores):
            found: RunState = search.start
            return found
    return engine.state


def models(engine: Engine, state: RunState | None = None) -> list[nn.Module]:
    """The models at a state of the run (None: the present one), one per task of this process, as plain modules."""
    state = state or engine.state
    values = engine.tower.bottom.eval_points(state), state.task.buffers  # which may be means of its points
    family = engine.family
    each = trees.unstack(values, family.count) if family.batched else [values]
    modules = [family.module(start.draw, start.place - family.first) for start in family.starts(state.task)]
    for module, own in zip(modules, each, strict=True):
        Live(module).put(*own)
    return modules


def start_of(engine: Engine) -> nn.Module:
    """The first task's model where its episodes start from.

    Raises:
        RecoptError: if no level moves that.
    """
    state = settled(engine)
    if INIT not in state.slots:
        raise RecoptError("No level of this run moves a start: put 'init:' over the task's level, as in sgd/init:adam.")
    module = engine.family.module(0)
    live = Live(module)
    return live.put(state.slots[INIT].params, live.still())


def measure(engine: Engine, split: Split, state: RunState | None = None) -> dict[str, float]:
    """The mean loss and metrics over one pass of ``split``, over all tasks; leaves no trace in the run."""
    found = measure_each(engine, split, state)
    return engine.ranks.means({key: sum(one[key] for one in found) / len(found) for key in found[0]})


def measure_each(engine: Engine, split: Split, state: RunState | None = None) -> list[dict[str, float]]:
    """As :func:`measure`, of each task of this process by itself."""
    found: list[dict[str, float]] = []
    tasks = engine.family.members((state or engine.state).task)
    quietly, place = engine.evaluator.quietly, engine.family.place
    with seeded(0, engine.device):
        for task, module in zip(tasks, models(engine, state), strict=True):
            module.eval()
            count, sums = task.batches(split), dict[str, float]()
            for index in range(count):
                values = quietly(partial(_figures, task, module, place(task.batch(index, split))))
                for key, value in values.items():
                    sums[key] = sums.get(key, 0.0) + float(value) / count
            found.append(sums)
    return found


def measured_names(engine: Engine, split: Split) -> list[str]:
    """The names of what :func:`measure` gives, from the first batch of the first task."""
    task, module = engine.family.members(engine.state.task)[0], models(engine)[0].eval()
    with seeded(0, engine.device):
        batch = engine.family.place(task.batch(0, split))
        return list(engine.evaluator.quietly(partial(_figures, task, module, batch)))


def _figures(task: Task, module: nn.Module, batch: Any) -> dict[str, Tensor]:
    return {"loss": task.loss(module, batch), **task.metrics(module, batch)}
