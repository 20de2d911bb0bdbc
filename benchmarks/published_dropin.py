"""The rows of a published comparison in a plain training loop, with recopt.Optimizer: the same levels in less time.

    RECOPT_DATA=DIR python benchmarks/published_dropin.py runs/published-chandra-30.yaml [--rows NAME …] [--seeds 1 2 3]

A row's stack, its settings, the task, the steps and the batches are those of the spec; a seed fixes the initial weights
and the order of the batches, the same for all rows. Prints a line for each run as it ends, and for each row the median
(least to most) of the test error in percent and of the test loss. "below 0" counts the steps that were made at a
negative rate. Run from the repository's root: specs name their plugins from there.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import recopt
from recopt.contracts.task import Task
from recopt.levels.notation import parse
from recopt.stacks.plugins import load_strategy, load_task


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


@dataclass(frozen=True)
class End:
    """How a run ended: percent wrong and mean loss on the test images, the last rate, and two counts of steps."""

    error: float
    loss: float
    rate: float
    negative: int
    guarded: int


def run(row: Mapping[str, Any], task: Task, steps: int, folders: Sequence[str]) -> End:
    """One row on one seed's task."""
    torch.manual_seed(task.seed)
    model = task.model()
    optimizer = optimizer_of(row, model, folders)
    rate, negative = math.nan, 0
    for index in range(steps):
        optimizer.zero_grad()
        task.loss(model, task.batch(index)).backward()
        optimizer.step()
        rate = next((v for k, v in optimizer.hyperparameters().items() if k.endswith((".lr", ".root"))), math.nan)
        negative += rate < 0
    with torch.no_grad():
        batches = [task.batch(index, "test") for index in range(task.batches("test"))]
        found = [(task.metrics(model, b)["accuracy"], task.loss(model, b), len(b[1])) for b in batches]
    count = sum(size for *_, size in found)
    right = float(sum(accuracy * size for accuracy, _, size in found)) / count
    loss = float(sum(loss * size for _, loss, size in found)) / count
    return End(100 * (1 - right), loss, rate, negative, sum(optimizer.guards().values()))


def spread(values: Sequence[float], places: int) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})"


def main() -> None:
    """Print a line for each run and each row as soon as it is there."""
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
            ends: list[End] = []
            for seed, task in zip(options.seeds, tasks, strict=True):
                ends.append(run(row, task, spec["steps"], spec["plugins"]))
                e = ends[-1]
                print(f"{row['name']}, seed {seed}: error {e.error:.2f} %, loss {e.loss:.4f}, last rate {e.rate:.3g}, "
                      f"below 0 {e.negative} steps, guards {e.guarded}", flush=True)  # fmt: skip
            errors, losses = [e.error for e in ends], [e.loss for e in ends]
            print(f"| {row['name']} | {spread(errors, 2)} % | {spread(losses, 3)} |", flush=True)


if __name__ == "__main__":
    main()
