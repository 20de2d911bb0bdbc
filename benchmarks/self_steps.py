"""Searches whose own step moves: final values by the first step, from far too small to far too large.

    python benchmarks/self_steps.py run --seeds 20 --out self_steps.jsonl
    python benchmarks/self_steps.py table self_steps.jsonl

Random least squares in ten dimensions (the task `quadratic`), a problem for each seed, 1,024 evaluations in all. The
first rows move the point itself; the others, named `sgd/…`, the rate of SGD from 1e-5, by windows of 4 steps. A column
is the step that the search starts from, the score the loss at the end. The table has medians, with 95 % intervals by
bootstrap over seeds. Finished lines of ``--out`` are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy
from command_line import run_and_table

import recopt

STEPS = (1e-4, 1e-2, 1.0, 10.0)
EVALUATIONS, DRAWS = 1024, 2000


class Row(NamedTuple):
    """A stack, the evaluations that a step of the run costs, and settings."""

    stack: str
    cost: int
    settings: tuple[str, ...] = ()


ROWS = {
    row.stack: row
    for row in (
        Row("evolution", 4, ("level1.population=4",)),
        Row("evolution/self", 16, ("level1.population=4", "level2.population=4", "level2.every=2")),
        Row("self-adaptive", 8),
        Row("sgd/annealing", 2, ("level2.every=4",)),
        Row("sgd/annealing/self", 4, ("level2.every=4", "level3.every=2")),
        Row("sgd/self-adaptive", 8, ("level2.every=4",)),
    )
}


def score(row: Row, step: float, seed: int) -> float:
    """The loss at the end of a run; infinite where that is not finite."""
    rule = next(name for name in ("annealing", "evolution", "self-adaptive") if name in row.stack)
    stack = row.stack.replace("sgd/", "sgd(lr=1e-5)/").replace(rule, f"{rule}(step={step:g})")
    steps = EVALUATIONS // row.cost
    found = recopt.run("quadratic", stack, steps=steps, seed=seed, settings=[*row.settings], track=False)
    last = found.after["loss"]
    return last if math.isfinite(last) else math.inf


def run(given: argparse.Namespace) -> None:
    """Score all rows at all steps, one seed after the other."""
    done = {(x["row"], x["step"], x["seed"]) for x in lines(given.out)}
    seeds = range(given.first, given.first + given.seeds)
    for seed, row, step in itertools.product(seeds, given.rows or ROWS, given.steps):
        if (row, step, seed) not in done:
            with given.out.open("a") as out:
                one = {"row": row, "step": step, "seed": seed, "score": score(ROWS[row], step, seed)}
                out.write(json.dumps(one) + "\n")


def lines(path: Path) -> list[dict[str, float]]:
    """The finished lines."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def table(given: argparse.Namespace) -> None:
    """Medians by row and first step, with their intervals."""
    found = lines(given.out)
    steps = sorted({x["step"] for x in found})
    print("| stack | seeds |" + "".join(f" {step:g} |" for step in steps) + "\n|---|---|" + "---|" * len(steps))
    for row in dict.fromkeys(x["row"] for x in found):
        each = [{x["seed"]: x["score"] for x in found if (x["row"], x["step"]) == (row, step)} for step in steps]
        seeds = set.intersection(*map(set, each))
        cells = [_shown(numpy.array([scores[seed] for seed in sorted(seeds)])) for scores in each]
        print(f"| `{row}` | {len(seeds)} | " + " | ".join(cells) + " |")


def _shown(scores: numpy.ndarray) -> str:
    if not len(scores):
        return ""
    drawn = scores[numpy.random.default_rng(0).integers(len(scores), size=(DRAWS, len(scores)))]
    low, high = numpy.quantile(numpy.median(drawn, axis=1), [0.025, 0.975], method="nearest")
    return f"{numpy.median(scores):.2g} ({low:.2g}–{high:.2g})"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    parser.add_argument("--rows", nargs="+", choices=[*ROWS])
    parser.add_argument("--steps", nargs="+", type=float, default=STEPS)


if __name__ == "__main__":
    run_and_table(__doc__, run, table, options)
