"""The default against Adam at four rates, and against itself without a part of it."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from no_knob import completed
from no_knob_jobs import Task
from no_knob_rules import ADAM, Rule, ours, torchs

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
ADAMS: dict[str, Rule] = {f"Adam cosine {rate:g}": partial(torchs, ADAM, "cosine", lr=rate) for rate in RATES}
DEFAULT = partial(ours, None, told=True)


@contextmanager
def replaced(module: Any, **constants: float) -> Iterator[None]:
    """The module with other constants, for trainings inside."""
    before = {name: getattr(module, name) for name in constants}
    for name, value in constants.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def compare(about: str, tasks: dict[str, Task], part: str, blind: Callable[[], AbstractContextManager[None]]) -> None:
    """Run what is missing of a command's cache, and print mean held-out losses over that of Adam at its best rate.

    Args:
        about: what the command says of itself.
        part: the name of what the default does without inside of ``blind()``.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("no_knob_without.jsonl"))
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks), metavar="TASK")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: tasks[name] for name in args.tasks}
    told, without = "recopt, steps told", f"recopt without a look at {part}, steps told"
    completed(args.cache, ADAMS | {told: DEFAULT}, chosen, args.seeds)
    with blind():
        runs = completed(args.cache, {without: DEFAULT}, chosen, args.seeds)
    for task in chosen:
        means = {
            rule: statistics.mean(runs[rule, task, seed]["loss"] for seed in range(args.seeds))
            for rule in (*ADAMS, told, without)
        }
        best = min(ADAMS, key=lambda rule: means[rule])
        ratios = ", ".join(f"{rule} {means[rule] / means[best]:.3f}" for rule in (told, without))
        print(f"{task:22} {best} {means[best]:.4g}; over it: {ratios}", flush=True)
