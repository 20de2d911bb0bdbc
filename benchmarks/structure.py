"""The strategy above a learning rate and its `every`, chosen while training, beside each pair fixed beforehand.

    python benchmarks/structure.py run --seeds 20 --tasks quadratic --out structure.jsonl
    python benchmarks/structure.py run --seeds 10 --tasks digits --out structure.jsonl
    python benchmarks/structure.py table structure.jsonl

Nine pairs: three strategies above Adam's rate, which is far too small at first, and three lengths of their windows.
Each is run for 600 steps. Sweeps and single runs choose within twice the updates of one such run; their trials have 100
steps, the default, from windows of 1 and the first strategy, unless told otherwise. A ratio is of test losses, over the
same seeds: to the pair that is best in hindsight, by the mean logarithm of its test loss over these seeds, and to the
median of the nine, seed by seed. A loss below 1e-6 counts as that. Finished lines of ``--out`` are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import run_and_table
from scipy.stats import t as student

import recopt

RULES, RATE = ["sgd", "adagrad", "adam"], "adam(lr=1e-5)"
EVERY, STEPS = [1, 10, 50], 600
TASKS = {"digits": "digits", "quadratic": "quadratic(start=normal, conditioning=100)", "mnist": "mnist"}
SWITCH = f"{RATE}/switch(among=[sgd, adagrad(lr=1), adam(lr=0.05)]"  # with the rates that they have above a rate
ADAM = ", which=adam(lr=0.05)"
SHORT = ["level2.every=10", "level3.every=2"]
WAYS: dict[str, dict[str, Any]] = {
    "fixed": {"by": "grid"},
    "sweep, by grid, with halving": {"by": "grid", "asha": "eta=3, first=33"},
    "sweep, by pbt": {"by": "pbt(population=2, step=1.53333, spread=1.53333)", "trials": 12},  # 4.6 / 3: one choice
    "sweep, by pbt, rounds of 20 steps": {"by": "pbt(population=2, step=1.53333, spread=1.53333)", "trials": 60},
    "one run, annealing": {"stack": "annealing(moves=one)[which, every]"},
    "one run, pbt": {"stack": "pbt(population=2, step=1.0)[which, every]"},
    "one run, annealing, trials of 20 steps": {"stack": "annealing(moves=one)[which, every]", "settings": SHORT},
    "one run, pbt, trials of 20 steps": {"stack": "pbt(population=2, step=1.0)[which, every]", "settings": SHORT},
    "one run, annealing, from adam": {"stack": "annealing(moves=one)[which, every]", "first": ADAM},
    "one run, annealing, from adam, trials of 20 steps": {
        "stack": "annealing(moves=one)[which, every]", "first": ADAM, "settings": ["level2.every=1", "level3.every=20"],
    },
}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished lines."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def measured(task: str, seed: int, stack: str | None = None, first: str = "", **settings: Any) -> dict[str, Any]:
    """The test loss of a run by ``stack``, above the switch; else of a sweep's best trial, and of all it has."""
    if stack:
        found = recopt.run(
            task, f"{SWITCH}{first})/{stack}", steps=STEPS, measure=0, seed=seed, track=False, **settings
        )
        return {"status": found.status, "loss": found.after["loss"], "updates": found.budget.total.gradient}
    over = {"stack": [f"{RATE}/{rule}" for rule in RULES], "level2.every": EVERY}
    swept = recopt.sweep(task, over=over, steps=STEPS, measure=0, seed=seed, track=False, **settings)
    best = {"status": swept.status, "loss": swept.best.test["loss"], "chosen": swept.best.words, "updates": swept.made}
    return best | ({"each": {one.words: one.test.get("loss") for one in swept.trials}} if len(settings) == 1 else {})


def run(given: argparse.Namespace) -> None:
    """Run what is not there yet."""
    done = {(line["task"], line["seed"], line["way"]) for line in lines(given.out)}
    warnings.simplefilter("ignore")
    for seed in range(given.first, given.first + given.seeds):
        for name in given.tasks:
            for way in given.ways:
                if (name, seed, way) not in done:
                    found = {"task": name, "seed": seed, "way": way, **measured(TASKS[name], seed, **WAYS[way])}
                    if found["status"] != "FINISHED":
                        raise KeyboardInterrupt  # stopped by a signal: no result
                    with given.out.open("a") as out:
                        out.write(json.dumps(found) + "\n")


def _log(loss: float | None) -> float:
    """ln of a loss, from 1e-6 to 1e3, which one that diverged counts as."""
    return math.log(min(max(loss, 1e-6), 1e3)) if loss is not None and math.isfinite(loss) else math.log(1e3)


def ratio(gaps: Sequence[float]) -> str:
    """The mean of differences of logarithms, and its 95 % interval, as ratios."""
    half = student.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    low, mean, high = (math.exp(statistics.fmean(gaps) + x) for x in (-half, 0.0, half))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def table(given: argparse.Namespace) -> None:
    """By task: the best fixed pair, what each way ends with, and ratios to the best and the median pair."""
    found = {(x["task"], x["way"], x["seed"]): x for x in lines(given.out)}
    print("| task | chosen by | test loss | of the best pair's (95 %) | of the median pair's (95 %) | updates |")
    print("|---|---|---|---|---|---|")
    for name in TASKS:
        seeds = [seed for task, way, seed in found if task == name and way == "fixed"]
        if len(seeds) < 2:
            continue
        each = {seed: found[name, "fixed", seed]["each"] for seed in seeds}
        logs = {pair: {seed: _log(each[seed][pair]) for seed in seeds} for pair in each[seeds[0]]}
        best = min(logs, key=lambda pair: statistics.fmean(logs[pair].values()))
        usual = {seed: statistics.median(one[seed] for one in logs.values()) for seed in seeds}
        rows = {f"hindsight: {best}": logs[best]} | {
            way: {seed: _log(found[name, way, seed]["loss"]) for seed in seeds if (name, way, seed) in found}
            for way in list(WAYS)[1:]
        }
        for way, got in rows.items():
            if len(got) > 1:
                spent = [found[name, way, seed]["updates"] for seed in got] if way in WAYS else [STEPS]
                print(f"| {name}, {len(got)} seeds | {way} | {math.exp(statistics.fmean(got.values())):.3g} | "
                      f"{ratio([x - logs[best][seed] for seed, x in got.items()])} | "
                      f"{ratio([x - usual[seed] for seed, x in got.items()])} | "
                      f"{statistics.fmean(spent) / STEPS:.2f} of a run's |")  # fmt: skip


def main() -> None:
    """Run or print."""

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
        parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))

    run_and_table(__doc__, run, table, options)


if __name__ == "__main__":
    main()
