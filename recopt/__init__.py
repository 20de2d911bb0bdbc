"""Optimizers that are optimized by optimizers, to any depth, for PyTorch models.

Names load when they are first used: ``import recopt`` imports neither torch nor mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison, compare
    from .declare import option, positive, real, unit
    from .errors import RecoptError
    from .failures import RunFailed
    from .graph import Graph
    from .level import Level
    from .optimizer import Optimizer
    from .result import Result
    from .running import run
    from .strategy import Params, State, Strategy, Trial
    from .task import Task

__all__ = [
    "Comparison",
    "Graph",
    "Level",
    "Optimizer",
    "Params",
    "RecoptError",
    "Result",
    "RunFailed",
    "State",
    "Strategy",
    "Task",
    "Trial",
    "compare",
    "option",
    "positive",
    "real",
    "run",
    "unit",
]

__version__ = "0.1.0.dev0"

_HOME = {
    "Comparison": "comparison",
    "Graph": "graph",
    "Level": "level",
    "Optimizer": "optimizer",
    "Params": "strategy",
    "RecoptError": "errors",
    "Result": "result",
    "RunFailed": "failures",
    "State": "strategy",
    "Strategy": "strategy",
    "Task": "task",
    "Trial": "strategy",
    "compare": "comparison",
    "option": "declare",
    "positive": "declare",
    "real": "declare",
    "run": "running",
    "unit": "declare",
}
"""The submodule that each public name comes from (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recopt' has no attribute '{name}'")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
