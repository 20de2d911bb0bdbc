"""The tasks that come with recopt, by name. Importing this loads none of them, nor torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..errors import unknown

if TYPE_CHECKING:
    from ..task import Task


class Entry(NamedTuple):
    """Where a task is, and one line on it."""

    module: str
    name: str
    line: str


_TASKS: dict[str, Entry] = {
    "quadratic": Entry("quadratic", "Quadratic", "Random least squares, f(θ) = ‖Wθ − y‖², W and y standard normal."),
    "rosenbrock": Entry("rosenbrock", "Rosenbrock", "Rosenbrock's curved valley in any dimension, minimum 0 at 1."),
    "rastrigin": Entry("rastrigin", "Rastrigin", "Rastrigin's egg-box in any dimension, global minimum 0 at 0."),
    "digits": Entry("digits", "Digits", "scikit-learn's 1,797 real 8 × 8 images of digits."),
}


def names() -> list[str]:
    """The names of the tasks, sorted."""
    return sorted(_TASKS)


def describe(name: str) -> str:
    """One line on the task ``name``. Raises RecoptError if there is none."""
    return _entry(name).line


def get(name: str) -> type[Task]:
    """The class of the task ``name``, imported now. Raises RecoptError if there is none."""
    entry = _entry(name)
    return cast("type[Task]", getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.name))


def make(name: str, seed: int = 0, **options: Any) -> Task:
    """The task ``name`` with ``options``. Raises RecoptError on an unknown name or option."""
    return get(name)(seed=seed, **options)


def _entry(name: str) -> Entry:
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]
