"""A default without a knob against rules that were tuned: held-out losses on many small tasks.

    python benchmarks/no_knob.py run "recopt, steps" Prodigy --cache runs.jsonl   # rules by the start of their names
    python benchmarks/no_knob.py show --cache runs.jsonl                          # the tables

Adam is tuned over six rates, constant or with a cosine, schedule-free AdamW over six rates: the setting whose mean over
the same seeds is best, which favours them. Losses are those at the end, means of the seeds, over tuned Adam's. Each run
is a line of the cache, and is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from no_knob_fresh import DEVELOPMENT, SEALED
from no_knob_jobs import Task, keeping_out
from no_knob_rules import TUNED, UNTUNED, Rule
from no_knob_tasks import CHOSEN_ON, HELD_BACK, TASKS
from no_knob_ten import AGAIN, TEN
from no_knob_unseen import UNSEEN

ALL: dict[str, Task] = TASKS | DEVELOPMENT | SEALED | UNSEEN | TEN | AGAIN
ROWS = ("noisy rows", "small table", "diabetes", "cancer", "wine", "boxes", "table", "digits", "words", "sparse",
        "mnist", "denoising", "factorization", "recurrent", "fashion", "convolution")  # fmt: skip
SETS = {"chosen": CHOSEN_ON, "held": HELD_BACK, "all": TASKS, "development": DEVELOPMENT, "sealed": SEALED,
        "fresh": DEVELOPMENT | SEALED, "unseen": UNSEEN, "ten": TEN, "again": AGAIN,
        "rows": {name: ALL[name] for name in ROWS}}  # fmt: skip
RULES: dict[str, Rule] = UNTUNED | {name: rule for grid in TUNED.values() for name, rule in grid.items()}


def run(task: Task, rule: Rule, seed: int) -> dict[str, float]:
    """The held-out loss at the end of a training, the training loss of its last twentieth, and its seconds."""
    torch.manual_seed(seed)
    with keeping_out(getattr(rule, "share", 0.0)):
        job, began = task.make(seed), time.perf_counter()
    trainings = [rule(network.parameters(), task.steps) for network in job.networks]
    last: list[float] = []
    for number in range(task.steps):
        for training, compute in zip(trainings, job.losses, strict=True):
            training.optimizer.zero_grad()
            loss = compute()
            loss.backward()
            training.step(loss.detach())
        if job.measure is not None and (number + 1) % max(1, task.steps // 100) == 0:
            trainings[0].tell(job.measure(0))
        if number >= task.steps * 0.95:
            last.append(loss.item())
    seconds = time.perf_counter() - began
    with ExitStack() as reading:
        for training in trainings:
            reading.enter_context(training.at_end())
        found = job.score()
    return {"loss": found, "train": statistics.mean(last), "seconds": seconds}


def cached(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The trainings that were run before."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(x["rule"], x["task"], x["seed"]): x for x in found}


def one(place: tuple[str, str, int]) -> dict[str, Any]:
    """The training of a rule on a task from a seed, as a line of the cache."""
    torch.set_num_threads(1)
    rule, task, seed = place
    return {"rule": rule, "task": task, "seed": seed, **run(ALL[task], RULES[rule], seed)}


def fill(path: Path, rules: dict[str, Rule], tasks: dict[str, Task], seeds: int, workers: int) -> None:
    """Run what is missing, in so many processes."""
    known = cached(path)
    missing = [place for place in product(rules, tasks, range(seeds)) if place not in known]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool, path.open("a") as out:
        for found in as_completed(pool.submit(one, place) for place in missing):
            out.write(json.dumps(found.result()) + "\n")
            out.flush()


def completed(path: Path, rules: dict[str, Rule], tasks: dict[str, Task], seeds: int) -> dict[Any, dict[str, Any]]:
    """The trainings in the cache after what is missing has been run, one after another."""
    known = cached(path)
    missing = [place for place in product(rules, tasks, range(seeds)) if place not in known]
    with path.open("a") as out:
        for rule, task, seed in missing:
            found = {"rule": rule, "task": task, "seed": seed, **run(tasks[task], rules[rule], seed)}
            out.write(json.dumps(found) + "\n")
            out.flush()
    return cached(path)


def table(path: Path, tasks: dict[str, Task]) -> dict[str, dict[str, float]]:
    """By rule and task, the mean held-out loss; tuned rules at their best setting."""
    losses: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (rule, task, _), x in cached(path).items():
        if task in tasks:
            losses[rule][task].append(x["loss"] if math.isfinite(x["loss"]) else math.inf)
    means = {rule: {task: statistics.mean(v) for task, v in row.items()} for rule, row in losses.items()}
    tuned = {f"{name}, tuned": [means[x] for x in grid if x in means] for name, grid in TUNED.items()}
    best = {name: {t: min(r[t] for r in rows if t in r) for t in tasks if any(t in r for r in rows)}
            for name, rows in tuned.items()}  # fmt: skip
    return best | {name: row for name, row in means.items() if name in UNTUNED}


def show(path: Path, tasks: dict[str, Task]) -> None:
    """Ratios to tuned Adam, and what sums them up."""
    means = table(path, tasks)
    base = means["Adam, tuned"]
    if base.keys() != tasks.keys():
        raise SystemExit(f"{path} lacks runs of Adam, to which losses are compared: no table.")
    rows = {name: {t: row[t] / base[t] for t in tasks if t in row} for name, row in means.items()}
    rows = {name: row for name, row in rows.items() if len(row) == len(tasks)}
    best = {t: min(row[t] for row in rows.values()) for t in tasks}
    sizes = {name: [min(max(x, 1e-9), 1e9) for x in row.values()] for name, row in rows.items()}
    scored = sorted((statistics.geometric_mean(values), name) for name, values in sizes.items())
    width = max(map(len, rows))
    print(" " * width, "geo   worst ≤1.02 ≤1.10 near  " + " ".join(f"{t[:7]:>7}" for t in tasks))
    for geo, name in scored:
        row = rows[name]
        near = sum(x <= 1.02 * best[t] for t, x in row.items())
        within = " ".join(f"{sum(x <= limit for x in row.values()):5d}" for limit in (1.02, 1.1))
        each = " ".join(f"{row[t]:7.2f}" for t in tasks)
        print(f"{name:{width}} {geo:5.2f} {max(row.values()):6.2f} {within} {near:4d}  {each}")
    print(f"{'tuned Adam, held-out loss':{width}}" + " " * 32 + " ".join(f"{base[t]:7.3f}" for t in tasks))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("rules", nargs="*", help="the start of a rule's name; none: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", choices=SETS, default="all")
    parser.add_argument("--cache", type=Path, default=Path("no_knob.jsonl"))
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    args = parser.parse_args()
    tasks = SETS[args.tasks]
    if args.action == "run":
        wanted = tuple(args.rules) or ("",)
        fill(args.cache, {k: v for k, v in RULES.items() if k.startswith(wanted)}, tasks, args.seeds, args.workers)
    show(args.cache, tasks)


if __name__ == "__main__":
    main()
