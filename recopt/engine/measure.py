"""Measurements on held-out data: the model as its user would use it, in evaluation mode."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts.strategy import Params
from ..contracts.task import Split, Task
from ..levels.state import RunState
from .engine import Engine
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


def at_eval_points(engine: Engine, state: RunState) -> Params:
    """The values of the task's slot where its levels would have it used: at means of what they went through, say."""
    return engine.tower.bottom.eval_points(state)


def models(engine: Engine, state: RunState | None = None) -> list[nn.Module]:
    """The models at a state of the run (None: the present one), one per task, as plain modules."""
    state = state or engine.state
    slot, values = state.task, at_eval_points(engine, state)
    starts = engine.family.starts(slot)
    found = []
    for n in range(engine.tasks):
        module = engine.family.module(starts[n].draw, starts[n].place)
        params = [p[n] for p in values] if engine.tasks > 1 else values
        others = [b[n] for b in slot.buffers] if engine.tasks > 1 else slot.buffers
        moving, rest = iter(params), iter(others)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(next(moving) if p.requires_grad else next(rest))
            for b in module.buffers():
                b.copy_(next(rest))
        found.append(module)
    return found


def measure(engine: Engine, split: Split, state: RunState | None = None) -> dict[str, float]:
    """The mean loss and metrics over one pass of ``split``, over all tasks; leaves no trace in the run."""
    found = measure_each(engine, split, state)
    return {key: sum(one[key] for one in found) / len(found) for key in found[0]}


def measure_each(engine: Engine, split: Split, state: RunState | None = None) -> list[dict[str, float]]:
    """As :func:`measure`, of each task by itself."""
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


def _figures(task: Task, module: nn.Module, batch: Any) -> dict[str, Tensor]:
    return {"loss": task.loss(module, batch), **task.metrics(module, batch)}
