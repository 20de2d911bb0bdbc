"""The tasks that come with recopt, by name. Importing this module imports neither them nor torch."""

from __future__ import annotations

import ast
import importlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from ..checking.errors import unknown

if TYPE_CHECKING:
    from ..contracts.task import Task


_TASKS = {
    "quadratic": "quadratic.Quadratic",
    "rosenbrock": "functions.Rosenbrock",
    "rastrigin": "functions.Rastrigin",
    "landscape": "landscape.Landscape",
    "mnist": "images.MNIST",
    "fashion-mnist": "images.FashionMNIST",
    "emnist": "images.EMNIST",
    "cifar10": "images.CIFAR10",
    "svhn": "images.SVHN",
    "digits": "images.Digits",
    "sequence": "sequence.Sequences",
    "mixture": "mixture.Mixture",
    "rescaled": "rescaled.Rescaled",
    "noisy-labels": "noisy_labels.NoisyLabels",
    "sinusoid": "sinusoid.Sinusoid",
    "few-shot": "few_shot.FewShot",
}
"""The module and class of each task, by its name."""


def names() -> list[str]:
    """The names of the tasks, sorted."""
    return sorted(_TASKS)


def describe(name: str) -> str:
    """The first line on the task ``name``, read without importing it. Raises RecoptError if there is none."""
    module, kind = _place(name)
    text = files(__name__).joinpath(f"{module}.py").read_text(encoding="utf-8")
    found = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == kind)
    return (ast.get_docstring(found) or "").partition("\n")[0]


def get(name: str) -> type[Task]:
    """The class of the task ``name``, imported on demand. Raises RecoptError if there is none."""
    module, kind = _place(name)
    return cast("type[Task]", getattr(importlib.import_module(f"{__name__}.{module}"), kind))


def name_of(task: type[Task]) -> str | None:
    """The name of a task's class; None if it does not come with recopt."""
    home = f"{task.__module__}.{task.__name__}".removeprefix(f"{__name__}.")
    return next((name for name, place in _TASKS.items() if place == home), None)


def make(name: str, seed: int = 0, **options: Any) -> Task:
    """The task ``name`` with ``options``. Raises RecoptError on an unknown name or option."""
    return get(name)(seed=seed, **options)


def _place(name: str) -> tuple[str, str]:
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    module, _, kind = _TASKS[name].partition(".")
    return module, kind
