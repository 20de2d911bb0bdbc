"""The rows of a published comparison in a plain training loop, with recopt.Optimizer: the same levels in less time.

    RECOPT_DATA=DIR python benchmarks/published_dropin.py runs/published-chandra-30.yaml [--rows NAME …] [--seeds 1 2 3]

A row's stack, its settings, the task, the steps and the batches are those of the spec; a seed fixes the initial weights
and the order of the batches, the same for all rows. Prints the test error in percent, median (least to most), and how
often the guards acted. Run from the repository's root: specs name their plugins from there.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

import recopt
from recopt.plugins import load_strategy, load_task
from recopt.stack import parse
from recopt.task import Task


def optimizer_of(row: Mapping[str, Any], model: torch.nn.Module, folders: Sequence[str]) -> recopt.Optimizer:
    """The row's stack over ``model``, with the settings that the spec gives its levels."""
    levels: dict[int, dict[str, Any]] = {}
    guard = True
    for setting in row.get("settings") or []:
        place, value = setting.split("=")
        number, key = int(place.split(".")[0].removeprefix("level")), place.split(".")[1]
        if key == "guard":
            guard = guard and value != "false"
        else:
            levels.setdefault(number, {})[key] = value
    rules = []
    for number, (term,) in enumerate(parse(row["stack"]), 1):
        rules.append(load_strategy(term.name, folders)(**term.settings))
        if term.only:
            levels.setdefault(number, {})["only"] = term.only
    return recopt.Optimizer(model.parameters(), rules, levels=levels, guard=guard)


def test_error(row: Mapping[str, Any], task: Task, steps: int, folders: Sequence[str]) -> tuple[float, int]:
    """Percent wrong on the test images at the end, and how often a guard acted."""
    torch.manual_seed(task.seed)
    model = task.model()
    optimizer = optimizer_of(row, model, folders)
    for index in range(steps):
        optimizer.zero_grad()
        task.loss(model, task.batch(index)).backward()
        optimizer.step()
    with torch.no_grad():
        batches = [task.batch(index, "test") for index in range(task.batches("test"))]
        right = [task.metrics(model, batch)["accuracy"] * len(batch[1]) for batch in batches]
    count = sum(len(batch[1]) for batch in batches)
    return 100 * (1 - float(sum(right)) / count), sum(optimizer.guards().values())


def main() -> None:
    """Print a line for each row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = yaml.safe_load(options.spec.read_text())
    first = load_task(spec["task"]["name"])(seed=0, **spec["task"]["settings"])
    tasks = [first.sample(seed) for seed in options.seeds]
    for row in spec["stacks"]:
        if options.rows is None or row["name"] in options.rows:
            found = [test_error(row, task, spec["steps"], spec["plugins"]) for task in tasks]
            errors, acted = [error for error, _ in found], [count for _, count in found]
            middle = f"{statistics.median(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})"
            each = " ".join(f"{error:.2f}" for error in errors)
            print(f"| {row['name']} | {middle} | each {each}; guards {acted} |", flush=True)


if __name__ == "__main__":
    main()
