"""A learned rule that goes on with its own meta-training, behind a gate beside Adam, and tuned Adam in its place.

    python benchmarks/self_rules.py run --seeds 6 --out self_rules.jsonl
    python benchmarks/self_rules.py table self_rules.jsonl

An ``mlp-rule`` is trained by Adam on logistic regression on digits, 300 steps of its weights over windows and episodes
of 10, and is the trained start of both ways. The gated way makes ``STEPS`` updates of the task on its path; Adam alone
makes as many as that had evaluations in all, comparisons counted, so that it has a tenth more (one for each episode's
end). Adam's rate is the best of ``RATES`` on two seeds that are not among those told, and the gated way has it as well.

The score is the mean of the losses of 10 steps by the last weights, held still, over 32 fresh tasks, the same for all.
A ratio is of scores, the geometric mean over seeds with its 95 % interval. Finished lines are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import statistics
import warnings
from pathlib import Path
from typing import Any

from command_line import run_and_table
from structure import lines, ratio

import recopt

TASK, RULE = "digits(net=logistic, batch_size=32)", "mlp-rule(hidden=8, width=8)"
SETTINGS = ["level2.every=10", "level2.episode=10"]
STEPS, START, TUNING, RATES = 2000, 3000, (100, 101), (0.003, 0.01, 0.03)
SIZE = 0.1
"""gamma at the first comparison: the rule's step is then about as long as Adam's at 0.001."""
CHOOSE = {"tasks": 32, "steps": 10, "objective": "mean"}


def stack(way: str, rate: float) -> tuple[str, list[str]]:
    """The levels above the trained rule, and their settings."""
    if way == "adam":
        return f"adam(lr={rate})", []
    return f"gated(base=adam(lr={rate}), rule={RULE}, tied=true)/gate(size={SIZE})", ["level3.every=4"]


def measured(way: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """The scores of the rule before and after, the evaluations that it took, and what the gate did."""
    above, more = stack(way, rate)
    found = recopt.run(
        TASK, f"start/{above}", steps=steps, seed=seed, settings=SETTINGS + more, measure=0, track=False,
        choose={"every": steps, **CHOOSE}, progress=False,
    )  # fmt: skip
    assert found.chosen is not None
    total, report = found.budget.total, found.chosen.report
    line = {"way": way, "rate": rate, "seed": seed, "steps": steps, "status": found.status, "outcome": found.outcome,
            "evaluations": total.gradient + total.loss, "score": report["last"].mean,
            "before": report["before"].mean, "diverged": report["last"].diverged}  # fmt: skip
    if way == "gate":
        gate = found.engine.state.levels[2].parts[0].strategy
        gammas = [float(x) for x in found.history("gamma", 2)[1]]
        line |= {key: gate[key] for key in ("compared", "won", "rolled_back", "open")}
        line |= {"largest gamma": max(gammas), "open for": statistics.fmean(x > 0 for x in gammas)}
    return line


def start(place: Path) -> None:
    """Train the rule that all begin with, and export it as a strategy of that folder, unless it is there."""
    if not (place / "strategies" / "start").exists():
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(place):
            made = recopt.run(TASK, f"{RULE}/adam(lr=0.003)", steps=START, seed=1000, settings=SETTINGS,
                              measure=0, progress=False)  # fmt: skip
            assert made.folder is not None
            shutil.copytree(made.folder / "export", "strategies/start")


def run(given: argparse.Namespace) -> None:
    """Run what is not there yet."""
    warnings.simplefilter("ignore")
    place, out = given.out.with_suffix(""), given.out.resolve()
    start(place)

    def one(way: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
        for line in lines(out):
            if (line["way"], line["rate"], line["seed"], line["steps"]) == (way, rate, seed, steps):
                return line
        found = measured(way, rate, seed, steps)
        if found["status"] != "FINISHED" and found["outcome"] == "interrupted":
            raise KeyboardInterrupt  # stopped by a signal: no result
        with out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        return found

    with contextlib.chdir(place):
        rate = best([one("adam", rate, seed, STEPS) for seed in TUNING for rate in RATES])
        for seed in range(given.first, given.first + given.seeds):
            spent = one("gate", rate, seed, STEPS)["evaluations"]
            one("adam", rate, seed, spent)


def best(found: list[dict[str, Any]]) -> float:
    """The rate with the least mean logarithm of its scores on the seeds for tuning."""
    mean = {rate: statistics.fmean(math.log(x["score"]) for x in found if x["rate"] == rate and x["seed"] in TUNING)
            for rate in RATES}  # fmt: skip
    return min(mean, key=lambda rate: mean[rate])


def table(given: argparse.Namespace) -> None:
    """By way: the score, its ratios to tuned Adam's and to the start's, and evaluations; then what the gate did."""
    found = lines(given.out)
    tuning = [x for x in found if x["way"] == "adam" and x["seed"] in TUNING]
    rate = best(tuning)
    told = {(x["way"], x["seed"]): x for x in found if x["seed"] not in TUNING and x["rate"] == rate}
    seeds = [seed for way, seed in told if way == "adam" and ("gate", seed) in told]
    print(f"Adam's rate: {rate:g} of {', '.join(f'{x:g}' for x in RATES)}; {len(seeds)} seeds\n")
    print("| goes on by | score | over tuned Adam's | over the start's | evaluations |\n|---|---|---|---|---|")
    for way in ("adam", "gate"):
        own = [told[way, seed] for seed in seeds if (way, seed) in told]
        if len(own) > 1:
            logs = [math.log(x["score"]) for x in own]
            gaps = [math.log(x["score"] / told["adam", x["seed"]]["score"]) for x in own]
            ahead = [math.log(x["score"] / x["before"]) for x in own]
            print(f"| {way} | {math.exp(statistics.fmean(logs)):.3f} | {'1' if way == 'adam' else ratio(gaps)} | "
                  f"{ratio(ahead)} | {statistics.fmean(x['evaluations'] for x in own):,.0f} |")  # fmt: skip
    print("\n| seed | compared | won | taken back | largest gamma | open for |\n|---|---|---|---|---|---|")
    for seed in seeds:
        x = told["gate", seed]
        print(f"| {seed} | {x['compared']} | {x['won']} | {x['rolled_back']} | {x['largest gamma']:.2g} | "
              f"{x['open for']:.0%} |")  # fmt: skip


def main() -> None:
    """Run or print."""
    run_and_table(__doc__, run, table, lambda parser: None)


if __name__ == "__main__":
    main()
