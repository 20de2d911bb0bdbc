"""Optimizers that are optimized by optimizers, to any depth, for PyTorch models.

Names load when they are first used: ``import recopt`` imports neither torch nor mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .public import HOME
from .public import __version__ as __version__

if TYPE_CHECKING:
    from .checking.errors import RecoptError
    from .comparison import Comparison, compare
    from .comparison.ablate import ablate
    from .comparison.ablation import Ablation
    from .contracts.settings import option, positive, real, unit
    from .contracts.strategy import Params, State, Strategy, Trial
    from .contracts.task import Task
    from .levels.graph import Graph
    from .levels.level import Level
    from .optim.optimizer import Optimizer
    from .plots.history import History
    from .rules.ops import Column, Ops, Term
    from .rules.rule import Hypers, Rule
    from .running.result import Result
    from .running.run import run
    from .stacks.build import strategy
    from .stacks.failures import RunFailed
    from .sweeps import sweep
    from .sweeps.result import Sweep
    from .toolkit.discrete import choice, integer, log_integer
    from .tracking.trackers import Tracker

__all__ = [
    "Ablation",
    "Column",
    "Comparison",
    "Graph",
    "History",
    "Hypers",
    "Level",
    "Ops",
    "Optimizer",
    "Params",
    "RecoptError",
    "Result",
    "Rule",
    "RunFailed",
    "State",
    "Strategy",
    "Sweep",
    "Task",
    "Term",
    "Tracker",
    "Trial",
    "ablate",
    "choice",
    "compare",
    "integer",
    "log_integer",
    "option",
    "positive",
    "real",
    "run",
    "strategy",
    "sweep",
    "unit",
]


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in HOME:
        raise AttributeError(f"module 'recopt' has no attribute '{name}'")
    value = getattr(import_module(f".{HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
