"""Rates that move themselves: hypergradient descent on Adam's rate, from starts many powers of ten apart.

    python benchmarks/self_loops.py run --seeds 1000 --out self_loops.jsonl
    python benchmarks/self_loops.py run --task digits --seeds 5 --out self_loops.jsonl
    python benchmarks/self_loops.py table self_loops.jsonl

On quadratics: random least squares f(θ) = ‖Wθ − y‖², W (10 × 10) and y standard normal, a seed each, θ = 0 at first,
in float64. The score is the sum of f over 100 evaluations, those of steps that are taken back included. On other tasks:
the mean training loss of the last 50 of 500 steps. A row is a stack, a column the rate that it starts from. The table
has medians over seeds, with 95 % intervals by bootstrap over them; of fewer than 50, the least and the largest.
Finished lines of ``--out`` are not run again, and rows may have different numbers of seeds, the same ones first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from command_line import run_and_table

import recopt
from recopt.stacks.plugins import load_strategy

RATES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
STARTS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
STEPS, TRAINING, DIM, CHUNK, DRAWS = 100, 500, 10, 50, 2000
QUADRATICS = "quadratics"
SEED = 20_261_127
SelfTied: Any = load_strategy("self-tied")


class Constant(SelfTied):
    """The same with its κ as it is at first: what is left is hypergradient descent, parabolas, and steps taken back."""

    def _tied(self, state: recopt.State, cosine: torch.Tensor) -> tuple[torch.Tensor, recopt.State]:
        return self.kappa.to(cosine.dtype), {"cosine": cosine}


ROWS: dict[str, Callable[[float], Any]] = {
    "fixed": lambda rate: f"adam(lr={rate})",
    "hypergradient": lambda rate: f"adam(lr={rate})/hypergradient",
    "hypergradient, self": lambda rate: f"adam(lr={rate})/hypergradient/self",
    "hypergradient from κ 0.3, self": lambda rate: f"adam(lr={rate})/hypergradient(kappa=0.3)/self",
    "self-tied": lambda rate: f"self-tied(lr={rate})",
    "self-tied, from κ 0.1": lambda rate: f"self-tied(lr={rate},kappa=0.1)",
    "constant κ 0.1, taken back": lambda rate: Constant(lr=rate, kappa=0.1),
    "constant κ 0.7, taken back": lambda rate: Constant(lr=rate),
}
STACKS = {name: ROWS[name] for name in ("fixed", "hypergradient", "hypergradient, self", "self-tied")}


def problem(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W and y of a problem."""
    draw = numpy.random.default_rng([SEED, number])
    return torch.from_numpy(draw.standard_normal((DIM, DIM))), torch.from_numpy(draw.standard_normal(DIM))


def scores_of(row: str, rate: float, seeds: range) -> list[float]:
    """The sums of f over all evaluations. At a fixed rate Adam takes all problems at once, since it is elementwise."""
    return (
        descended(ROWS[row](rate), [*seeds]) if row == "fixed" else [descended(ROWS[row](rate), [n])[0] for n in seeds]
    )


def descended(stack: Any, seeds: list[int]) -> list[float]:
    """The same of one optimizer over the points of some problems."""
    matrix, target = map(torch.stack, zip(*map(problem, seeds), strict=True))
    point = torch.zeros(len(seeds), DIM, dtype=torch.float64, requires_grad=True)
    optimizer, total = recopt.Optimizer([point], stack), torch.zeros(len(seeds), dtype=torch.float64)
    for _ in range(STEPS):
        with torch.no_grad():
            rest = torch.einsum("nij,nj->ni", matrix, point) - target
            losses, point.grad = (rest * rest).sum(1), 2 * torch.einsum("nij,ni->nj", matrix, rest)
        total += losses
        optimizer.step(loss=losses.sum())
    return total.tolist()


def trained(task: str, stack: str, seed: int) -> float:
    """The mean training loss of a run's last tenth; infinite where that is not finite."""
    found = recopt.run(task, stack, steps=TRAINING, seed=seed, track=False).losses
    last = float(numpy.mean(numpy.asarray(found)[-TRAINING // 10 :]))
    return last if math.isfinite(last) else math.inf


def run(given: argparse.Namespace) -> None:
    """Score seeds, chunk by chunk, all rows and rates of one before the next."""
    quadratics = given.task == QUADRATICS
    chunk, rates, rows = (CHUNK, RATES, ROWS) if quadratics else (1, STARTS, STACKS)
    done = {(x["task"], x["row"], x["rate"], x["first"]) for x in lines(given.out)}
    for first in range(given.first, given.first + given.seeds, chunk):
        for row, rate in itertools.product(given.rows or rows, rates):
            if (given.task, row, rate, first) not in done:
                if quadratics:
                    scores = scores_of(row, rate, range(first, first + CHUNK))
                else:
                    scores = [trained(given.task, rows[row](rate), first)]
                found = {"task": given.task, "row": row, "rate": rate, "first": first, "scores": scores}
                with given.out.open("a") as out:
                    out.write(json.dumps(found) + "\n")


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished lines."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def interval(scores: numpy.ndarray[Any, Any]) -> tuple[float, float]:
    """A 95 % interval of the median, by bootstrap over the problems."""
    draw = numpy.random.default_rng(0)
    medians = numpy.median(scores[draw.integers(len(scores), size=(DRAWS, len(scores)))], axis=1)
    low, high = numpy.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def table(given: argparse.Namespace) -> None:
    """Medians by task, stack and first rate, with their intervals."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for x in sorted(lines(given.out), key=lambda x: x["first"]):
        found.setdefault(x["task"], {}).setdefault(x["row"], {}).setdefault(x["rate"], []).extend(x["scores"])
    for task, rows in found.items():
        rates = sorted({rate for cells in rows.values() for rate in cells})
        print(f"\n| {task} | seeds |" + "".join(f" {rate:g} |" for rate in rates))
        print("|---|---|" + "---|" * len(rates))
        for row, cells in rows.items():
            count = min(len(cells.get(rate, [])) for rate in rates)
            shown = [_shown(numpy.array(cells[rate][:count])) for rate in rates] if count else []
            print(f"| {row} | {count} | " + " | ".join(shown) + " |")


def _shown(scores: numpy.ndarray[Any, Any]) -> str:
    middle = f"{numpy.median(scores):.3g}"
    return f"{middle} ({scores.min():.3g}–{scores.max():.3g})" if len(scores) < CHUNK else _with_interval(scores)


def _with_interval(scores: numpy.ndarray[Any, Any]) -> str:
    low, high = interval(scores)
    return f"{numpy.median(scores):.1f} ({low:.1f}–{high:.1f})"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    parser.add_argument("--task", default=QUADRATICS, help=f"{QUADRATICS}, or any task of recopt's")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS])


if __name__ == "__main__":
    run_and_table(__doc__, run, table, options)
