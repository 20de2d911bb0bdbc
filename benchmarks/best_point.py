"""The best point by a mean of what is told of held-out data: which mean, and how often it is told.

    python benchmarks/best_point.py --seeds 5 --cache best.jsonl

The default of recopt.Optimizer, told its steps, on the tasks of no_knob.py that have training rows. A fifth of those is
kept out and measured in three ways. Printed is the held-out loss at the best point over that at the last one: for
each task the geometric mean over seeds, then that over tasks, and the worst run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from no_knob import SETS
from no_knob_jobs import Task, keeping_out
from torch import Tensor

import recopt

WAYS = {
    "all, 100 times": (100, 0),
    "all, 20 times": (20, 0),
    "32 rows, 100 times": (100, 32),
    "32 rows, each step": (0, 32),
}
"""Measurements in a run (0: as many as steps), and rows of each (0: all that are kept out)."""
MEANS = {"none": (1, False), "last 3": (3, False), "last 10": (10, False), "running, 1/5": (5, True),
         "running, 1/10": (10, True), "running, 1/20": (20, True)}  # fmt: skip
"""Losses that count, and whether older ones fade or are dropped."""


class Best:
    """The point at which a mean of the losses was lowest."""

    def __init__(self, count: int, fades: bool) -> None:
        self.count, self.fades = count, fades
        self.told: list[float] = []
        self.mean, self.lowest, self.point = 0.0, math.inf, list[Tensor]()

    def tell(self, loss: float, params: list[Tensor]) -> None:
        """One more loss."""
        self.told.append(loss)
        self.mean += (loss - self.mean) / min(len(self.told), self.count)
        found = self.mean if self.fades else statistics.fmean(self.told[-self.count :])
        if found < self.lowest:
            self.lowest, self.point = found, [p.detach().clone() for p in params]


def run(task: Task, seed: int) -> dict[str, float]:
    """By way and mean, the held-out loss at the best point over that at the last one."""
    torch.manual_seed(seed)
    with keeping_out(0.2):
        job = task.make(seed)
    params = list(job.networks[0].parameters())
    optimizer = recopt.Optimizer(params, steps=task.steps)
    kept = {(way, mean): Best(*MEANS[mean]) for way in WAYS for mean in MEANS}
    for number in range(1, task.steps + 1):
        optimizer.zero_grad()
        loss = job.losses[0]()
        loss.backward()
        optimizer.step(loss=loss)
        for way, (times, rows) in WAYS.items():
            if number % (task.steps // times if times else 1) == 0:
                assert job.measure is not None
                told = job.measure(rows)
                for mean in MEANS:
                    kept[way, mean].tell(told, params)
    last, found = job.score(), {}
    for (way, mean), best in kept.items():
        with torch.no_grad():
            for p, value in zip(params, best.point, strict=True):
                p.copy_(value)
        found[f"{way} | {mean}"] = job.score() / last
    return found


def main() -> None:
    """Read the command line, run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("best_point.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in args.cache.read_text().splitlines()] if args.cache.exists() else []
    known = {(x["task"], x["seed"]): x["found"] for x in lines}
    with args.cache.open("a") as out:
        for seed in range(args.seeds):
            for name, task in SETS["rows"].items():
                if (name, seed) not in known:
                    known[name, seed] = run(task, seed)
                    out.write(json.dumps({"task": name, "seed": seed, "found": known[name, seed]}) + "\n")
                    out.flush()
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, _), found in known.items():
        for key, ratio in found.items():
            rows[key][name].append(ratio)
    print(f"{'':36} mean  worst run  " + " ".join(f"{name[:7]:>7}" for name in SETS["rows"]))
    for key, row in rows.items():
        means = {name: statistics.geometric_mean(values) for name, values in row.items()}
        worst = max(max(values) for values in row.values())
        each = " ".join(f"{means[name]:7.2f}" for name in SETS["rows"])
        print(f"{key:36} {statistics.geometric_mean(means.values()):.3f} {worst:9.2f}  {each}")


if __name__ == "__main__":
    main()
