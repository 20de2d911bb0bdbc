"""Intervals and estimators that a level chooses itself, against fixed ones, at equal numbers of evaluations.

    python benchmarks/automatic.py run --seeds 10 --out automatic.jsonl
    python benchmarks/automatic.py run --tasks rosenbrock noisy-labels --seeds 10 --out others.jsonl
    python benchmarks/automatic.py run --of gradient --seeds 10 --out automatic.jsonl
    python benchmarks/automatic.py table automatic.jsonl

A row is a task and a stack, a column what ``every`` (or ``gradient``) of level 2 is. The score is that of ``recopt
ablate``: the sum of the losses over as many evaluations of the task for all columns, those of trials, of examinations
and of Hessian-vector products included, each loss capped at a hundred times the first. Seeds are paired: the same
problem, start and batches. The table has the fixed value that is best in the median over seeds; the ratios of auto's
score to the best one of each seed, known only afterwards, to the default's, and to that of the worst in the median
(medians over seeds, with 95 % intervals by bootstrap over them); diverged runs by column; and what auto had chosen at
the end, with the number of runs. Finished lines of ``--out`` are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from command_line import run_and_table

from recopt.running.plan import plan
from recopt.running.repeats import RunSettings, run_all

AUTO, DRAWS, TRIALS = "auto", 2000, ("es", "pes")
TASKS = ("quadratic", "digits", "sinusoid")


class Row(NamedTuple):
    """A stack, its settings besides the one that varies, the values of that, and the one that is the default."""

    of: str
    stack: str
    evaluations: int
    values: tuple[str, ...]
    default: str
    settings: tuple[str, ...] = ()


WINDOWS = ("1", "5", "20", "100")
LONG = ("level2.every=50", "level2.second_order=true")
ROWS = (
    Row("every", "adam/adagrad", 1000, WINDOWS, "1"),
    Row("every", "adam/hypergradient", 1000, WINDOWS, "1"),
    Row("every", "sgd/sgd", 1000, WINDOWS, "1"),
    Row("every", "sgd(lr=0.1)/sgd", 1000, WINDOWS, "1"),
    Row("every", "mlp-rule/adam", 1000, WINDOWS, "20"),
    Row("gradient", "sgd/adam", 2000, ("unroll", "forward", "es", "pes"), "unroll", LONG),
    Row("gradient", "sgd(momentum=0.9)/adam[lr,momentum]", 2000, ("unroll", "forward", "es", "pes"), "unroll", LONG),
)


def scored(task: str, row: Row, seed: int) -> dict[str, dict[str, Any]]:
    """By value, the score of its run, whether that diverged, and what was told of choices."""
    found: dict[str, dict[str, Any]] = {}
    for name in (*row.values, AUTO):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            exact = name not in TRIALS  # which differentiate nothing
            settings = [one for one in row.settings if exact or "second_order" not in one]
            planned = plan(task, row.stack, settings=[*settings, f"level2.{row.of}={name}"])
            how = RunSettings(row.evaluations, budget="evaluations")
            runs = run_all(name, planned.graph, planned.task, [seed], how, test=False)
        said = [str(one.message) for one in told if f"{row.of} is" in str(one.message)]
        score, diverged = float(runs.score("sum")[0]), bool(runs.diverged[0])
        found[name] = {"score": score, "diverged": diverged, "told": said}
    return found


def run(given: argparse.Namespace) -> None:
    """Score all rows on all tasks, one seed after the other."""
    done = {(x["task"], x["of"], x["stack"], x["seed"]) for x in lines(given.out)}
    seeds = range(given.first, given.first + given.seeds)
    rows = [row for row in ROWS if row.of == given.of and row.stack in (given.stacks or [row.stack])]
    for seed, row, task in itertools.product(seeds, rows, given.tasks):
        if (task, row.of, row.stack, seed) not in done:
            one = {"task": task, "of": row.of, "stack": row.stack, "seed": seed, "columns": scored(task, row, seed)}
            with given.out.open("a") as out:
                out.write(json.dumps(one) + "\n")


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished lines."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def table(given: argparse.Namespace) -> None:
    """Ratios of auto to the fixed values, then scores, divergences and the last choices."""
    found = lines(given.out)
    for of in dict.fromkeys(x["of"] for x in found):
        heads = ("task", "stack", f"best {of}", "auto over the best", "over the default", "over the worst", "diverged",
                 "chosen at the end")  # fmt: skip
        print(f"\n| {' | '.join(heads)} |\n|" + "---|" * len(heads))
        tasks = dict.fromkeys(x["task"] for x in found)
        for row, task in itertools.product([row for row in ROWS if row.of == of], tasks):
            mine = [x["columns"] for x in found if (x["of"], x["stack"], x["task"]) == (of, row.stack, task)]
            if mine:
                print(f"| {task} | `{row.stack}` | " + " | ".join(_cells(row, mine)) + " |")


def _cells(row: Row, mine: list[dict[str, Any]]) -> list[str]:
    score = {name: numpy.array([x[name]["score"] for x in mine]) for name in mine[0]}
    fixed = numpy.stack([score[name] for name in row.values])
    middle = numpy.median(fixed, axis=1)
    lost = {name: sum(x[name]["diverged"] for x in mine) for name in mine[0]}
    ends = Counter((re.findall(r" is (\w+)", " ".join(x[AUTO]["told"])) or ["1"])[-1] for x in mine)
    return [
        row.values[middle.argmin()], _ratio(score[AUTO] / fixed.min(axis=0)), _ratio(score[AUTO] / score[row.default]),
        _ratio(score[AUTO] / fixed[middle.argmax()]), ", ".join(f"{name}: {n}" for name, n in lost.items() if n) or "0",
        ", ".join(f"{end} ({n})" for end, n in ends.most_common()),
    ]  # fmt: skip


def _ratio(ratios: numpy.ndarray[Any, Any]) -> str:
    drawn = ratios[numpy.random.default_rng(0).integers(len(ratios), size=(DRAWS, len(ratios)))]
    low, high = numpy.quantile(numpy.median(drawn, axis=1), [0.025, 0.975])
    return f"{numpy.median(ratios):.2f} ({low:.2f}–{high:.2f})"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    parser.add_argument("--of", choices=["every", "gradient"], default="every")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--stacks", nargs="+", choices=[row.stack for row in ROWS])


if __name__ == "__main__":
    run_and_table(__doc__, run, table, options)
