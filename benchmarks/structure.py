"""The strategy below and its `every` chosen by successive halving, beside each fixed pair, within twice a run's budget.

    python benchmarks/structure.py run --seeds 10 --out structure.jsonl
    python benchmarks/structure.py table structure.jsonl

Nine pairs: three strategies above a rate that is far too small, and three lengths of their windows. Each is run for
600 steps. The sweep begins all nine and goes on with the best third, twice: about 1,000 steps in all. Compared is the
test loss of the run that it ends with and that of the pair that is best in hindsight, by the mean logarithm of its
test loss over the same seeds; trials are ranked by held-out loss. A loss below 1e-6 counts as that. Finished lines of
``--out`` are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

import recopt

STACKS = ["adam(lr=1e-5)/hypergradient", "adam(lr=1e-5)/sgd", "sgd(lr=1e-5, momentum=0.9)/adagrad[lr]"]
EVERY = [1, 10, 50]
STEPS, HALVING = 600, "eta=3, first=33"
TASKS = {"digits": "digits", "quadratic": "quadratic(start=normal, conditioning=10)", "mnist": "mnist"}


def sweep(task: str, seed: int, asha: str | None) -> recopt.Sweep:
    """All pairs, each to the end unless halving stops it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recopt.sweep(task, over={"stack": STACKS, "level2.every": EVERY}, by="grid", steps=STEPS, measure=0,
                            seed=seed, asha=asha, track=False)  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished seeds."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def run(given: argparse.Namespace) -> None:
    """Run what is not there yet."""
    done = {(line["task"], line["seed"]) for line in lines(given.out)}
    for seed in range(given.seeds):
        for name in given.tasks:
            if (name, seed) in done:
                continue
            whole, halved = sweep(TASKS[name], seed, None), sweep(TASKS[name], seed, HALVING)
            fixed = {one.words: one.test.get("loss") for one in whole.trials}
            best = halved.best
            found = {"task": name, "seed": seed, "fixed": fixed, "chosen": best.words, "loss": best.test["loss"],
                     "steps": halved.made}  # fmt: skip
            with given.out.open("a") as out:
                out.write(json.dumps(found) + "\n")


def _log(loss: float | None) -> float:
    """ln of a loss, from 1e-6 to 1e3, which one that diverged counts as."""
    return math.log(min(max(loss, 1e-6), 1e3)) if loss is not None and math.isfinite(loss) else math.log(1e3)


def table(given: argparse.Namespace) -> None:
    """By task: the best fixed pair, what was chosen, and the paired difference of log losses."""
    print("| task | best of nine pairs | test loss | of the chosen | ratio (95 %) | mean of pairs | updates |")
    print("|---|---|---|---|---|---|---|")
    for name in TASKS:
        rows = [x for x in lines(given.out) if x["task"] == name]
        if len(rows) < 2:
            continue
        logs = {pair: [_log(x["fixed"][pair]) for x in rows] for pair in rows[0]["fixed"]}
        best = min(logs, key=lambda pair: statistics.fmean(logs[pair]))
        chosen = [_log(x["loss"]) for x in rows]
        gaps = [a - b for a, b in zip(chosen, logs[best], strict=True)]
        half = student.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        mean = statistics.fmean(gaps)
        usual = math.exp(statistics.fmean(statistics.fmean(x) for x in logs.values()))
        print(f"| {name}, {len(rows)} seeds | `{best}` | {math.exp(statistics.fmean(logs[best])):.4g} | "
              f"{math.exp(statistics.fmean(chosen)):.4g} | {math.exp(mean):.2f} ({math.exp(mean - half):.2f} to "
              f"{math.exp(mean + half):.2f}) | {usual:.4g} | {rows[0]['steps'] / STEPS:.2f} of a run's |")  # fmt: skip


def main() -> None:
    """Run or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("run")
    first.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    first.add_argument("--seeds", type=int, default=10)
    first.add_argument("--out", type=Path, required=True)
    first.set_defaults(act=run)
    second = commands.add_parser("table")
    second.add_argument("out", type=Path)
    second.set_defaults(act=table)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.act(given)


if __name__ == "__main__":
    main()
