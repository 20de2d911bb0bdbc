"""The tasks that come with recopt, by name. Importing this module imports neither them nor torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..contracts.errors import unknown

if TYPE_CHECKING:
    from ..contracts.task import Task


class Entry(NamedTuple):
    """A task's module and class, and one line on it."""

    module: str
    name: str
    line: str


_TASKS: dict[str, Entry] = {
    "quadratic": Entry("quadratic", "Quadratic", "Random least squares, f(θ) = ‖Wθ − y‖², W and y standard normal."),
    "rosenbrock": Entry("rosenbrock", "Rosenbrock", "Rosenbrock's curved valley in any dimension, minimum 0 at 1."),
    "rastrigin": Entry("rastrigin", "Rastrigin", "Rastrigin's egg-box in any dimension, global minimum 0 at 0."),
    "mnist": Entry("images", "MNIST", "Handwritten digits, 60,000 + 10,000 images of 28 × 28 (LeCun et al. 1998)."),
    "fashion-mnist": Entry(
        "images", "FashionMNIST", "Articles of clothing, 60,000 + 10,000 images of 28 × 28 (Xiao et al. 2017)."
    ),
    "emnist": Entry(
        "images",
        "EMNIST",
        "Handwritten letters in 26 classes, 124,800 + 20,800 images of 28 × 28 (Cohen et al. 2017, Letters).",
    ),
    "cifar10": Entry(
        "images", "CIFAR10", "Photographs in 10 classes, 50,000 + 10,000 colour images of 32 × 32 (Krizhevsky 2009)."
    ),
    "svhn": Entry(
        "images", "SVHN", "House numbers' digits, 73,257 + 26,032 colour images of 32 × 32 (Netzer et al. 2011)."
    ),
    "sequence": Entry(
        "sequence", "Sequence", "Next-token prediction on synthetic sequences by a small LSTM or transformer."
    ),
    "mixture": Entry("mixture", "Mixture", "A weighted mixture of other tasks; each draw is of one of them."),
    "rescaled": Entry("rescaled", "Rescaled", "Another task with every coordinate of its model rescaled at random."),
    "digits": Entry("digits", "Digits", "scikit-learn's 1,797 real 8 × 8 images of digits."),
}


def names() -> list[str]:
    """The names of the tasks, sorted."""
    return sorted(_TASKS)


def describe(name: str) -> str:
    """One line on the task ``name``. Raises RecoptError if there is none."""
    return _entry(name).line


def get(name: str) -> type[Task]:
    """The class of the task ``name``, imported on demand. Raises RecoptError if there is none."""
    entry = _entry(name)
    return cast("type[Task]", getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.name))


def name_of(task: type[Task]) -> str | None:
    """The name of a task's class; None if it does not come with recopt."""
    home = (task.__module__.removeprefix(f"{__name__}."), task.__name__)
    return next((name for name, entry in _TASKS.items() if (entry.module, entry.name) == home), None)


def make(name: str, seed: int = 0, **options: Any) -> Task:
    """The task ``name`` with ``options``. Raises RecoptError on an unknown name or option."""
    return get(name)(seed=seed, **options)


def _entry(name: str) -> Entry:
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]
