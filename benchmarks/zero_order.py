"""Zero-order strategies beside scipy, optuna, cmaes and nevergrad: test functions at equal evaluations, and digits.

    pip install 'recopt[search]' nevergrad
    python benchmarks/zero_order.py functions --evaluations 10000 --seeds 30 --out functions.jsonl
    python benchmarks/zero_order.py table functions.jsonl
    python benchmarks/zero_order.py times functions.jsonl
    python benchmarks/zero_order.py rates --task digits --seeds 10 --out rates.jsonl
    python benchmarks/zero_order.py compared rates.jsonl

``functions``: the task ``landscape`` (shifted by seed; Rastrigin in 10 and Rosenbrock in 20 coordinates unrotated, the
others in 10 coordinates, rotated). Each method gets the same start, uniform on the cube of ±5, the same number of
evaluations, and one setting for all functions; what counts is the best value seen. Where a method has bounds they are
±5; first steps are a fifth of their width (2.0). Finished lines of ``--out`` are not run again.

``rates``: SGD's learning rate and momentum beside all runs of a 5 x 5 grid: by annealing in a sweep of 8 whole
trainings between the ends of the grid, of which the one with the least loss on the ``valid`` split is the result, and
by annealing within a run, from the centre of the grid:
each point is scored by the mean loss of a training of 200 steps (or of 200 of 600, by turns), and the one that it ends
with (or the mean of the later half) trains for as many steps as the grid's runs. Besides, annealing that goes along
with one such run. All evaluations are counted.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zero_order_methods import (
    OTHERS,
    OURS,
    Counted,
    Loss,
    Out,
    by_recopt,
)

import recopt
import recopt.tasks
from recopt.tasks.landscape import FUNCTIONS

CASES = {name: (20 if name == "rosenbrock" else 10, name not in ("rastrigin", "rosenbrock")) for name in FUNCTIONS}
"""Coordinates, and whether they are rotated."""
LRS, MOMENTA = (1e-3, 1e-2, 0.1, 0.3, 1.0), (0.0, 0.5, 0.8, 0.9, 0.99)
CENTRE, ANNEALING = "sgd(lr=0.1, momentum=0.8)", "annealing(cooling=0.9)[lr,momentum]"
WINDOW = 200
EPISODES = {f"{CENTRE}/{ANNEALING}": WINDOW, f"{CENTRE}/{ANNEALING}, mean": 3 * WINDOW}
SWEEP, TRIALS = "annealing(step=1.5)", 8
SWEPT = f"sgd/{SWEEP}, sweep of {TRIALS}"
OVER = {"sgd.lr": "0.001..1", "sgd.momentum": "0..0.99 gap"}


def run(method: str, f: Counted, start: np.ndarray, seed: int) -> None:
    """Use up the evaluations of ``f``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if method in OURS:
                by_recopt(method, f, start, seed)
            else:
                OTHERS[method](f, start, seed)
        except Out:
            pass


def landscape(name: str, seed: int) -> tuple[Loss, np.ndarray]:
    """The function of a seed, and the start."""
    dim, rotated = CASES[name]
    least, turn = recopt.tasks.make("landscape", seed, function=name, dim=dim, rotated=rotated).batch(0)
    start = np.random.default_rng(seed).uniform(-5, 5, dim)
    return lambda x: float(FUNCTIONS[name](turn @ (torch.from_numpy(x) - least))), start


def functions(given: argparse.Namespace) -> None:
    done = {tuple(line[k] for k in ("method", "function", "seed", "evaluations")) for line in lines([given.out])}
    for seed in range(given.seeds):
        for name in given.functions:
            for method in given.methods:
                if (method, name, seed, given.evaluations) in done:
                    continue
                loss, start = landscape(name, seed)
                f, began = Counted(loss, given.evaluations, given.until), time.process_time()
                run(method, f, start, seed)
                write(given.out, method=method, function=name, seed=seed, evaluations=given.evaluations,
                      best={n: v for n, v in f.at.items() if n <= given.evaluations}, used=f.count,
                      seconds=time.process_time() - began)  # fmt: skip


def searched(task: str, seed: int, episode: int) -> tuple[dict[str, float], int]:
    """The point that annealing ends with, or with longer episodes the mean of the later half; and the evaluations."""
    settings = [f"level2.every={WINDOW}", f"level2.episode={episode}"]
    made = recopt.run(task, f"{CENTRE}/{ANNEALING}", steps=17 * WINDOW, settings=settings, seed=seed, track=False)
    found = {name: made.hyperparameters[f"sgd.{name}"] for name in ("lr", "momentum")}
    if episode > WINDOW:
        lrs, momenta = ([*made.trace.series(1, name)[1][-8:].tolist(), last] for name, last in found.items())
        middle = statistics.fmean(math.log(x / (1 - x)) for x in momenta)
        found = {"lr": statistics.geometric_mean(lrs), "momentum": 1 / (1 + math.exp(-middle))}
    return found, made.engine.budget.total.gradient


def swept(task: str, steps: int, seed: int) -> dict[str, Any]:
    """The figures of the best trial of a sweep by annealing, and the evaluations of all."""
    found = recopt.sweep(task, "sgd", over=OVER, by=SWEEP, trials=TRIALS, steps=steps, seed=seed, track=False)
    best = found.best
    return {"evaluations": found.made, "loss": best.test["loss"], "accuracy": best.test["accuracy"],
            "found": dict(best.hyperparameters)}  # fmt: skip


def rates(given: argparse.Namespace) -> None:
    done = {(line["stack"], line["seed"]) for line in lines([given.out])}
    grid = [f"sgd(lr={lr:g}, momentum={m:g})" for lr in LRS for m in MOMENTA]
    for seed in range(given.seeds):
        if (SWEPT, seed) not in done:
            write(given.out, stack=SWEPT, seed=seed, **swept(given.task, given.steps, seed))
        for stack in [*EPISODES, f"{CENTRE}/annealing[lr,momentum]", *grid]:
            if (stack, seed) in done:
                continue
            last, spent = stack, 0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if stack in EPISODES:
                    found, spent = searched(given.task, seed, EPISODES[stack])
                    last = f"sgd(lr={found['lr']}, momentum={found['momentum']})"
                made = recopt.run(given.task, last, steps=given.steps, seed=seed, track=False)
            spent += made.engine.budget.total.gradient
            write(given.out, stack=stack, seed=seed, evaluations=spent, loss=made.after["loss"],
                  accuracy=made.after["accuracy"], found=made.hyperparameters)  # fmt: skip


def compared(given: argparse.Namespace) -> None:
    """Each stack beside the cell of the grid that has the least mean test loss over seeds, chosen in hindsight."""
    found, grid = dict[str, dict[int, dict[str, Any]]](), list[str]()
    for line in lines(given.files):
        found.setdefault(line["stack"], {})[line["seed"]] = line
    grid = [stack for stack in found if "/" not in stack]
    capped = {s: statistics.fmean(min(x["loss"], 1e3) if x["loss"] == x["loss"] else 1e3 for x in found[s].values())
              for s in grid}  # fmt: skip
    best = min(grid, key=capped.__getitem__)
    whole = sum(x["evaluations"] for s in grid for x in found[s].values()) / len(found[best])
    print(f"best cell: {best}, loss {capped[best]:.4g}, seeds {len(found[best])}, grid's evaluations {whole:,.0f}")
    print("| stack | test loss | test accuracy | loss less the best cell's (95 %) | evaluations, share of the grid's |")
    print("|---|---|---|---|---|")
    for stack in [best, *(s for s in found if s not in grid)]:
        seeds = sorted(set(found[stack]) & set(found[best]))
        rows = [found[stack][k] for k in seeds]
        gaps = [row["loss"] - found[best][k]["loss"] for row, k in zip(rows, seeds, strict=True)]
        half = 2.26 * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan  # t with 9 degrees
        spent = statistics.fmean(row["evaluations"] for row in rows)
        print(f"| `{stack}` | {statistics.fmean(r['loss'] for r in rows):.4f} | "
              f"{statistics.fmean(r['accuracy'] for r in rows):.4f} | {statistics.fmean(gaps):+.4f} ± {half:.4f} | "
              f"{spent:,.0f}, {spent / whole:.1%} |")  # fmt: skip


def write(path: Path, **line: Any) -> None:
    with path.open("a") as out:
        out.write(json.dumps(line) + "\n")


def lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(x) for path in paths if path.exists() for x in path.read_text().splitlines()]


def table(given: argparse.Namespace) -> None:
    """Success rates (the share of seeds whose best value is below the target), and medians of the best values."""
    found = [x for x in lines(given.files) if str(given.evaluations) in x["best"]]
    # nevergrad's choice depends on the budget that it is told, so only runs of that budget count.
    found = [x for x in found if x["method"] != "nevergrad" or x["evaluations"] == given.evaluations]
    found = [x for x in found if x["seed"] < given.seeds]
    methods = list(dict.fromkeys(x["method"] for x in found))
    print("| function | " + " | ".join(methods) + " |\n|---" + "|---" * len(methods) + "|")
    for name in FUNCTIONS:
        cells = []
        for method in methods:
            runs = [x for x in found if (x["method"], x["function"]) == (method, name)]
            best = [x["best"][str(given.evaluations)] for x in runs]
            rate = sum(b <= given.target for b in best)
            whole = all(x.get("used", given.evaluations) >= given.evaluations for x in runs)
            middle = f", {statistics.median(best):.1g}" if whole else ""  # those that ended early might go lower
            cells.append(f"{rate}/{len(best)}{middle}" if best else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def times(given: argparse.Namespace) -> None:
    """Seconds of the processor that a run takes, its evaluations with it: the median over functions and seeds."""
    taken = dict[tuple[str, int], list[float]]()
    for line in lines(given.files):
        if "seconds" in line:
            taken.setdefault((line["method"], line["evaluations"]), []).append(line["seconds"])
    print("| method | evaluations | seconds | runs |\n|---|---|---|---|")
    for (method, evaluations), seconds in sorted(taken.items()):
        print(f"| {method} | {evaluations:,} | {statistics.median(seconds):.3g} | {len(seconds)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("functions")
    one.add_argument("--methods", nargs="+", default=[*OURS, *OTHERS])
    one.add_argument("--functions", nargs="+", default=list(FUNCTIONS))
    one.add_argument("--evaluations", type=int, default=10_000)
    one.add_argument("--seeds", type=int, default=30)
    one.add_argument("--until", type=float, default=-math.inf, help="end a run at this value (success rates only)")
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(act=functions)
    two = commands.add_parser("rates")
    two.add_argument("--task", default="digits")
    two.add_argument("--steps", type=int, default=1000)
    two.add_argument("--seeds", type=int, default=10)
    two.add_argument("--out", type=Path, required=True)
    two.set_defaults(act=rates)
    three = commands.add_parser("compared")
    three.add_argument("files", nargs="+", type=Path)
    three.set_defaults(act=compared)
    four = commands.add_parser("times")
    four.add_argument("files", nargs="+", type=Path)
    four.set_defaults(act=times)
    last = commands.add_parser("table")
    last.add_argument("files", nargs="+", type=Path)
    last.add_argument("--evaluations", type=int, default=10_000)
    last.add_argument("--target", type=float, default=1e-3)
    last.add_argument("--seeds", type=int, default=30)
    last.set_defaults(act=table)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.act(given)


if __name__ == "__main__":
    main()
