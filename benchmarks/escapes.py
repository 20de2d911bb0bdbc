"""Escapes from bad starts: gradient levels alone, and annealing or a population above them, at equal evaluations.

    python benchmarks/escapes.py run --seeds 10 --out escapes.jsonl
    python benchmarks/escapes.py run --cases rate-1e-8-mnist kappa-1e-9-mnist --out escapes.jsonl
    python benchmarks/escapes.py table escapes.jsonl

A case is a task, a start that is wrong, and what counts as success: a bound on a held-out measurement, set before
any run. A run ends as soon as it is met, or when its evaluations are used, those of trials too; the
measurements are as far apart in evaluations. Seeds are 0, 1, …; what was chosen on the way (see the page) was chosen
on 100 to 103. Finished lines of ``--out`` are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from command_line import run_and_table
from scipy.stats import beta
from torch import Tensor, nn

import recopt
from recopt.tasks.functions import Function
from recopt.tasks.images import Digits

TRIALS = {"annealing": 2, "pbt": 4}
"""Trials a step, by the name of the outermost strategy; 1 for all others."""


class Wells(Function):
    """A narrow well at 3 within a wide one at 0, in each coordinate; the start is in the narrow one.

    f(x) = Σ 0.05 x² − 0.3 exp(−(x − 3)² / 0.08): 0.15 in the narrow well, 0 in the wide one. Steps of a rate below
    2 / 7.6 = 0.26 stay in the narrow one, and up to 2 / 0.1 = 20 settle in the wide one.
    """

    def value(self, theta: Tensor) -> Tensor:
        return (0.05 * theta**2 - 0.3 * torch.exp(-((theta - 3) ** 2) / 0.08)).sum()

    def start(self) -> Tensor:
        return 3 + 0.1 * torch.randn(self.dim)


class Dead(Digits):
    """Digits with rectifiers whose first biases are -10: no image reaches any unit, and no gradient any of them."""

    def model(self) -> nn.Module:
        model = super().model()
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if name.endswith("bias")).fill_(-10)
        return model


class Case(NamedTuple):
    """A bad start.

    Attributes:
        until: success.
    """

    task: Any
    stacks: list[str]
    until: str = "accuracy>0.9"


SMALL = "adam(lr=1e-6)/hypergradient(kappa=1e-9)"
KAPPA = [SMALL, f"{SMALL}/hypergradient", f"{SMALL}/annealing"]


def at_rate(lr: str) -> list[str]:
    """Stacks that start from a learning rate."""
    sgd, adam = f"sgd(lr={lr})", f"adam(lr={lr})"
    return [sgd, f"{sgd}/hypergradient", f"{sgd}/annealing", f"{sgd}/pbt",
            adam, f"{adam}/hypergradient", f"{adam}/hypergradient/annealing"]  # fmt: skip


def heavy(base: str) -> list[str]:
    """Stacks over an SGD with too much momentum."""
    return [base, *(f"{base}/{x}" for x in ("hypergradient", "hypergradient[*]", "annealing", "pbt"))]


DECAYED = "sgd(lr=0.1, weight_decay=1e-4)"
CASES = {
    "wells": Case(Wells(dim=5, noise=0.1), [*at_rate("0.01"), "sgd(lr=0.01)/annealing(moves=one)"], "loss<0.1"),
    "kappa-1e-9-quadratic": Case("quadratic(start=normal)", KAPPA, "loss<0.01"),
    "kappa-1e-9": Case("digits", KAPPA),
    "rate-1e-8": Case("digits", at_rate("1e-8")),
    "rate-1e3": Case("digits", at_rate("1e3")),
    "momentum-0.999": Case("digits", heavy("sgd(lr=1, momentum=0.999)")),
    "dead": Case(Dead(activation="relu"), ["adam", "adam/hypergradient", "adam/hypergradient/annealing", "sgd/pbt",
                 DECAYED, f"{DECAYED}/hypergradient[*]", f"{DECAYED}/annealing", f"{DECAYED}/pbt"]),
    "rate-1e-8-mnist": Case("mnist", at_rate("1e-8")),
    "kappa-1e-9-mnist": Case("mnist", KAPPA),
}  # fmt: skip


def one(case: Case, stack: str, seed: int, evaluations: int) -> dict[str, Any]:
    """The end of a run, and the evaluations that it took."""
    trials = TRIALS.get(re.split(r"[\[(]", stack.rpartition("/")[2])[0], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = recopt.run(case.task, stack, steps=evaluations // trials, measure=evaluations // trials // 80, seed=seed,
                          until=case.until, track=False, progress=None)  # fmt: skip
    key, above, bound = case.until.partition(">" if ">" in case.until else "<")
    seen = [float(x) for x in made.trace.series(0, f"valid_{key}")[1]]
    met = [x > float(bound) if above == ">" else x < float(bound) for x in seen]
    return {"escaped": any(met), "last": seen[-1], "status": made.status,
            "evaluations": made.engine.budget.total.gradient, "found": made.hyperparameters}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def run(given: argparse.Namespace) -> None:
    """Run what is not there yet."""
    done = {(line["case"], line["stack"], line["seed"]) for line in lines(given.out)}
    for name in given.cases:
        for seed in range(given.first, given.first + given.seeds):
            for stack in CASES[name].stacks:
                if (name, stack, seed) not in done:
                    found = one(CASES[name], stack, seed, given.evaluations)
                    with given.out.open("a") as out:
                        out.write(json.dumps({"case": name, "stack": stack, "seed": seed, **found}) + "\n")


def interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate of which k of n were seen (Clopper & Pearson 1934)."""
    return (float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0, float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0)


def table(given: argparse.Namespace) -> None:
    """By case and stack: how many escaped, after how many evaluations, and how many runs diverged."""
    found = lines(given.out)
    print("| start | stack | escaped (95 %) | evaluations, median | diverged |\n|---|---|---|---|---|")
    for name, case in CASES.items():
        for stack in case.stacks:
            rows = [x for x in found if (x["case"], x["stack"]) == (name, stack)]
            if not rows:
                continue
            after = [x["evaluations"] if x["escaped"] else math.inf for x in rows]
            k, middle = sum(x["escaped"] for x in rows), statistics.median_high(after)
            least, most = interval(k, len(rows))
            bad = sum(x["status"] != "FINISHED" for x in rows)
            print(f"| {name} | `{stack}` | {k}/{len(rows)} ({least:.2f} to {most:.2f}) | "
                  f"{'' if middle == math.inf else f'{middle:,}'} | {bad} |")  # fmt: skip


def main() -> None:
    """Run or print."""

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
        parser.add_argument("--evaluations", type=int, default=8000)

    run_and_table(__doc__, run, table, options)


if __name__ == "__main__":
    main()
