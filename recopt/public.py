"""The public names, the modules that they come from, and the version. Importing this loads nothing else."""

from __future__ import annotations

__version__ = "0.1.0.dev0"

HOME = {
    "Ablation": "comparison.ablation",
    "Column": "rules.ops",
    "Comparison": "comparison",
    "Graph": "levels.graph",
    "History": "plots.history",
    "Hypers": "rules.rule",
    "Level": "levels.level",
    "Ops": "rules.ops",
    "Optimizer": "optim.optimizer",
    "Params": "contracts.strategy",
    "RecoptError": "checking.errors",
    "Result": "running.result",
    "Rule": "rules.rule",
    "RunFailed": "stacks.failures",
    "Tracker": "tracking.trackers",
    "State": "contracts.strategy",
    "Strategy": "contracts.strategy",
    "Sweep": "sweeps.result",
    "Task": "contracts.task",
    "Term": "rules.ops",
    "Trial": "contracts.strategy",
    "ablate": "comparison.ablate",
    "choice": "toolkit.discrete",
    "compare": "comparison",
    "integer": "toolkit.discrete",
    "log_integer": "toolkit.discrete",
    "option": "contracts.settings",
    "positive": "contracts.settings",
    "real": "contracts.settings",
    "run": "running.run",
    "strategy": "stacks.build",
    "sweep": "sweeps",
    "unit": "contracts.settings",
}
