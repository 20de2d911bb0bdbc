"""recopt.Optimizer against what people would pick instead, on the same number of steps.

    RECOPT_DATA=DIR python benchmarks/dropin_peers.py [--tasks digits fashion cnn mnist text] [--seeds 3] [--out FILE]

Tuned rules (those with a rate: Adam, AdamW, schedule-free AdamW) are run with seed 0 at every rate of a grid, the
rate with the best validation score is kept, and seeds 1, 2, … are reported with it. The others run at their authors'
defaults (or recopt's) with seeds 1, 2, …. Half of each held-out set chooses the rate, the other half is reported. A
seed fixes the initial parameters and the order of the batches. "diverged": the held-out loss is not finite or above
the initial one. A cell is the median and the range over the seeds, and after @ the rate chosen.

Peers that are not there are reported as not installed; ``pip install recopt[bench]`` has them. Every run is written to
``--out`` as it ends, and skipped if found there; ``--merge`` prints one table of several such files and runs nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dropin_peers_tasks import TASKS, Work
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import recopt

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEED = 0
Build = Callable[[nn.Module, float], torch.optim.Optimizer]


@dataclass(frozen=True)
class Rule:
    """A contestant: an optimizer for a model at a rate (ignored where ``rates`` is empty), read at its mean or not.

    ``told``: a stack of recopt's that is told how long the run will be.
    """

    build: Build
    rates: tuple[float, ...] = ()
    cosine: bool = False
    needs: str = "torch"
    averaged: bool = False
    told: str | None = None


def tower(stack: str | None, **settings: Any) -> Build:
    """recopt's with a stack, or its default."""
    return lambda model, _: recopt.Optimizer(model.parameters(), stack, **settings)


def tuned(rule: str, **settings: Any) -> Build:
    """recopt's rule at a rate."""
    return lambda model, rate: recopt.Optimizer(model.parameters(), rule, lr=rate, **settings)


def averaged(stack: str | None) -> Rule:
    """The same, read at the mean that it keeps."""
    return Rule(tower(stack, average=True), averaged=True)


def peer(module: str, name: str, **settings: Any) -> Build:
    """A peer's class, imported when it is built, at its defaults."""
    return lambda model, _: getattr(importlib.import_module(module), name)(model.parameters(), **settings)


def mechanic(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Mechanic (Cutkosky et al. 2023, 2306.00144) over AdamW with a base rate of 1, as its authors write."""
    base = importlib.import_module("mechanic_pytorch").mechanize(torch.optim.AdamW)
    return base(model.parameters(), lr=1.0)


def at(module: str, name: str) -> Build:
    """A class at a rate, everything else at its defaults."""
    return lambda model, rate: peer(module, name, lr=rate)(model, rate)


FREE = ("schedulefree", "AdamWScheduleFree")  # Defazio et al. 2024, 2405.15682
RULES: dict[str, Rule] = {
    "recopt default, steps told": Rule(tower(None), told="paced"),
    "recopt `paced(base=muon)`, steps told": Rule(tower(None), told="paced(base=muon)"),
    "recopt `paced(base=muon)`": Rule(tower("paced(base=muon)")),
    "recopt `paced(base=factored)`, steps told": Rule(tower(None), told="paced(base=factored)"),
    "recopt `paced(base=factored)`": Rule(tower("paced(base=factored)")),
    "recopt default": Rule(tower(None)),
    "recopt default, averaged": averaged(None),
    "recopt `adam/adagrad(lr=1)[lr]`": Rule(tower("adam/adagrad(lr=1)[lr]")),
    "recopt `adam/adagrad(lr=1)[lr]`, averaged": averaged("adam/adagrad(lr=1)[lr]"),
    "recopt `adam/adagrad(lr=1)[lr]`, cosine": Rule(tower("adam/adagrad(lr=1)[lr]"), cosine=True),
    "recopt `adam/kesten[lr]`": Rule(tower("adam/kesten[lr]")),
    "recopt `adam/kesten[lr]`, averaged": averaged("adam/kesten[lr]"),
    "recopt `adam/sgd`": Rule(tower("adam/sgd")),
    "recopt `adam/adam`": Rule(tower("adam/adam")),
    "recopt `adam/adam`, averaged": averaged("adam/adam"),
    "recopt `schedule-free/adagrad[lr]`": Rule(tower("schedule-free/adagrad[lr]"), averaged=True),
    "recopt `sgd(momentum=0.9)/adagrad(lr=1)[lr]`": Rule(tower("sgd(momentum=0.9)/adagrad(lr=1)[lr]")),
    "recopt `prodigy`": Rule(tower("prodigy")),
    "recopt `prodigy`, averaged": averaged("prodigy"),
    "recopt `dog`": Rule(tower("dog")),
    "recopt `dowg`": Rule(tower("dowg")),
    "recopt `mechanic`": Rule(tower("mechanic")),
    "recopt `cocob`": Rule(tower("cocob")),
    "recopt `adam`, tuned, averaged": Rule(tuned("adam", average=True), RATES, averaged=True),
    "recopt `muon`, tuned": Rule(tuned("muon"), RATES),
    "recopt `muon`, tuned, cosine": Rule(tuned("muon"), RATES, cosine=True),
    "recopt `muon/kesten[lr]`": Rule(tower("muon/kesten[lr]")),
    "Adam, tuned": Rule(at("torch.optim", "Adam"), RATES),
    "Adam, tuned, cosine": Rule(at("torch.optim", "Adam"), RATES, cosine=True),
    "AdamW, tuned": Rule(at("torch.optim", "AdamW"), RATES),
    "AdamW, tuned, cosine": Rule(at("torch.optim", "AdamW"), RATES, cosine=True),
    "Adam at 1e-3": Rule(peer("torch.optim", "Adam", lr=1e-3)),
    "schedule-free AdamW at 2.5e-3": Rule(peer(*FREE, lr=2.5e-3), needs="schedulefree"),
    "schedule-free AdamW, tuned": Rule(at(*FREE), RATES, needs="schedulefree"),
    "Prodigy": Rule(peer("prodigyopt", "Prodigy"), needs="prodigyopt"),
    "Prodigy, cosine": Rule(peer("prodigyopt", "Prodigy"), cosine=True, needs="prodigyopt"),
    "D-Adaptation Adam": Rule(peer("dadaptation", "DAdaptAdam"), needs="dadaptation"),
    "DoG with averaging": Rule(peer("dog", "DoG"), needs="dog"),
    "Mechanic AdamW": Rule(mechanic, needs="mechanic_pytorch"),
    "MoMo Adam": Rule(peer("momo", "MomoAdam"), needs="momo"),
}


@torch.no_grad()
def score(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean loss and percent right."""
    logits, targets = model(data[0]), data[1].flatten()
    return cross_entropy(logits, targets).item(), 100 * (logits.argmax(1) == targets).double().mean().item()


def train(work: Work, rule: Rule, rate: float, seed: int) -> dict[str, Any]:
    """One run: validation and test score, and whether it diverged."""
    torch.manual_seed(seed)
    model = work.build()
    start, _ = score(model, work.held_out[1])
    optimizer = (
        recopt.Optimizer(model.parameters(), rule.told, steps=work.steps) if rule.told else rule.build(model, rate)
    )
    schedule = CosineAnnealingLR(optimizer, work.steps) if rule.cosine else None
    # DoG's authors: "iterate averaging is crucial", and they ship the averager.
    averager = importlib.import_module("dog").PolynomialDecayAverager(model) if rule.needs == "dog" else None
    if rule.needs == "schedulefree":
        optimizer.train()
    rows: list[Tensor] = []
    for _ in range(work.steps):
        rows = rows or list(torch.randperm(len(work.inputs)).split(work.batch))
        chosen = rows.pop()
        optimizer.zero_grad()
        loss = cross_entropy(model(work.inputs[chosen]), work.targets[chosen].flatten())
        loss.backward()
        optimizer.step(**({"loss": loss} if rule.needs == "momo" else {}))
        for other in filter(None, (schedule, averager)):
            other.step()
    if rule.needs == "schedulefree":
        optimizer.eval()  # their own way to the mean
    final = averager.averaged_model if averager is not None else model
    with optimizer.averaged() if rule.averaged else nullcontext():
        valid, test = (score(final, half) for half in work.held_out)
    which = 0 if work.by_loss else 1
    return {"valid": valid[which], "test": test[which], "diverged": not test[0] <= start}


class Log:
    """Runs by (task, rule, rate, seed), on disk after each."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.runs: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, task: str, work: Work, name: str, rate: float, seed: int) -> dict[str, Any]:
        """A run that is there, or one that is made now."""
        key = json.dumps((task, name, rate, seed))
        if key not in self.runs:
            self.runs[key] = train(work, RULES[name], rate, seed)
            if self.path is not None:
                self.path.write_text(json.dumps(self.runs, indent=0))
        return self.runs[key]


def measure(task: str, seeds: int, names: Iterable[str], log: Log) -> None:
    """All runs of a task: rates are chosen first."""
    work = TASKS[task]()
    for name in names:
        rule, rate = RULES[name], 0.0
        if importlib.util.find_spec(rule.needs) is None:
            continue
        if rule.rates:
            rate = best({r: log.get(task, work, name, r, TUNING_SEED) for r in rule.rates}, work.by_loss)
        for seed in range(TUNING_SEED + 1, TUNING_SEED + 1 + seeds):
            log.get(task, work, name, rate, seed)
        print(f"{task:8} {name}", flush=True)


def best(tried: dict[float, dict[str, Any]], by_loss: bool) -> float:
    """The rate with the best validation score, the smallest of equals; NaN never wins."""
    return min(tried, key=lambda r: (math.isnan(v := tried[r]["valid"]), v if by_loss else -v, r))


def cell(runs: dict[str, dict[str, Any]], task: str, name: str, seeds: int) -> str:
    """Median, range, the rate chosen, how many seeds if not all, and how many diverged."""
    here = [(*json.loads(key), run) for key, run in runs.items()]
    here = [(rate, seed, run) for where, rule, rate, seed, run in here if (where, rule) == (task, name)]
    tried = {rate: run for rate, seed, run in here if seed == TUNING_SEED}
    chosen = best(tried, task == "text") if tried else 0.0
    found = [run for rate, seed, run in here if seed != TUNING_SEED and rate == chosen]
    if not found:
        return "not installed" if importlib.util.find_spec(RULES[name].needs) is None else ""
    values, lost = [run["test"] for run in found], sum(run["diverged"] for run in found)
    middle, low, high = (format(f(values), ".3f" if task == "text" else ".1f") for f in (statistics.median, min, max))
    rate = f" @{chosen:g}" if RULES[name].rates else ""
    rate += f", {len(found)} of {seeds} seeds" if len(found) < seeds else ""
    return f"{middle} ({low}–{high}){rate}" + (f", {lost} of {len(found)} diverged" if lost else "")


def main() -> None:
    """Measure, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    log = Log(options.out)
    for path in options.merge:
        log.runs |= json.loads(path.read_text())
    for task in [] if options.merge else options.tasks:
        measure(task, options.seeds, options.rules, log)
    print("| rule | " + " | ".join(options.tasks) + " |\n" + "|---" * (len(options.tasks) + 1) + "|")
    for name in options.rules:
        print(f"| {name} | " + " | ".join(cell(log.runs, task, name, options.seeds) for task in options.tasks) + " |")


if __name__ == "__main__":
    main()
