"""Small comparisons, and parts of them made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from recopt.comparison.competitors import Competitor
from recopt.comparison.figures import Entry
from recopt.contracts.task import Task
from recopt.levels.graph import Graph
from recopt.running.plan import plan
from recopt.running.repeats import Runs

FAST: dict[str, Any] = {"seeds": 6, "steps": 8, "tune": 3, "tune_tasks": 4, "track": False}


def graph(stack: str, task: str | Task = "quadratic", settings: tuple[str, ...] = ()) -> Graph:
    return plan(task, stack, settings=settings).graph


def runs_of(losses: list[list[float]], evaluations: float | None = None) -> Runs:
    found = np.array(losses)
    return Runs(found, {}, found.shape[1] - 1 if evaluations is None else evaluations, 0, 0.0, 0)


def entry(losses: list[list[float]], prepared: int | None = 0, evaluations: float | None = None) -> Entry:
    return Entry(Competitor("x", graph("sgd"), prepared=prepared), runs_of(losses, evaluations))
