"""Ten random learned rules that meta-train each other, with no hand-designed optimizer anywhere, beside controls.

    python benchmarks/bootstrap.py run --seeds 5 --out bootstrap.jsonl
    python benchmarks/bootstrap.py table bootstrap.jsonl

Metz et al. 2021 (2101.07367). A member is an ``mlp-rule`` without its part of Adam's direction, with random weights. In
a generation a run of ``population/teachers`` makes ``UPDATES`` steps of every member's weights, by the gradient of the
mean loss over the ``STEPS`` steps that it makes on fresh tasks. The rule that makes them has the weights that a member
had when the generation began, and no step is longer than ``trust`` times what it moves, member by member. Then

- rollback: members are scored before and after on the same fresh tasks (held-out loss after ``STEPS`` steps), and those
  that became worse go back; where more than half did, ``trust`` is halved
- selection: the worst ``COPIED`` become copies of one of as many best, with noise

The ways differ in who moves the weights: the best member (``best``), for each a member drawn at random (``any``), each
member itself without rollback or selection (``self``), Adam, or nobody, for as many evaluations (``selection``).

Members run side by side, as one strategy over one task that holds a model for each: their losses are added, so that the
gradients are each one's own. What is told is the best member by the last scores, alone, as an ordinary ``mlp-rule``, on
``HELD_OUT`` tasks that nobody has seen. The rates of SGD and Adam on these are tuned on other seeds, the rate of Adam
over weights as well. Seconds are of the processor. Finished lines are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from bootstrap_members import RULE, STEPS, Population, SideBySide, Teachers, over
from command_line import run_and_table
from structure import lines, ratio
from torch import Generator, Tensor

import recopt
from recopt import Params, Strategy, strategy

COUNT, GENERATIONS, UPDATES, TASKS, SCORED, COPIED, NOISE, TRUST = 10, 6, 10, 4, 16, 3, 0.05, 0.01
TASK = "digits(net=logistic, batch_size=32)"
MLP = "digits(net=mlp, activation=relu, batch_size=32)"
HELD_OUT = {f"{STEPS} steps": (TASK, STEPS), f"{5 * STEPS} steps": (TASK, 5 * STEPS), "MLP": (MLP, STEPS)}
TUNING, OTHER, TUNED = 900_000_001, 900_000_002, 100
"""Seeds of 64 held-out tasks each, to tune rates on and to tell of; the population that the rate above is tuned on."""
RATES = {"sgd": (0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0), "adam": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)}
ABOVE = (0.003, 0.01)
"""Adam's rates over the weights of rules, the best by the last scores of the population of seed ``TUNED``."""
LOG_SIGN = "best, log-sign"
WAYS = ("best", "any", "self", LOG_SIGN, "adam above", "selection")


def finished(task: Any, stack: Any, **settings: Any) -> recopt.Result:
    """A run without a record. Raises KeyboardInterrupt if a signal stopped it."""
    found = recopt.run(task, stack, track=False, measure=0, progress=False, **settings)
    if found.status != "FINISHED":
        raise KeyboardInterrupt
    return found


def scores(weights: Params, seed: int, rule: str) -> Tensor:
    """The held-out loss of each member after ``STEPS`` steps, the mean over ``SCORED`` tasks."""
    task = SideBySide(of=TASK, count=len(weights[0]))
    found = finished(task, Population(weights, rule=rule), steps=STEPS, tasks=SCORED, seed=seed)
    pieces = [task.batch(n, "valid") for n in range(task.batches("valid"))]
    batch = tuple(torch.cat(part) for part in zip(*pieces, strict=True))
    with torch.no_grad():
        each = torch.stack([task.each(model, batch) for model in found.models()]).mean(0)
    return torch.where(each.isfinite(), each, math.inf)


def first(seed: int, rule: str) -> Params:
    """Random weights of all members, those that a rule begins at 0 as well."""
    dice = torch.Generator().manual_seed(seed)
    each = [dict(strategy(rule, seed=1000 * seed + n).named_parameters()) for n in range(COUNT)]
    start = {name: torch.stack([one[name].detach() for one in each]) for name in each[0]}
    zeros = [name for name in start if name.startswith("outer")]
    start |= {name: 0.1 * torch.randn(start[name].shape, generator=dice) for name in zeros}
    return [*start.values()]


def copied(weights: Params, order: Sequence[int], dice: Generator) -> Params:
    """The worst ``COPIED`` of ``order`` as copies of the best, with noise in proportion to each tensor."""
    out = [w.clone() for w in weights]
    for place in order[-COPIED:]:
        source = order[int(torch.randint(COPIED, (), generator=dice))]
        for w in out:
            size = w[source].square().mean().sqrt() + 0.1
            w[place] = w[source] + NOISE * size * torch.randn(w[source].shape, generator=dice)
    return out


class After(NamedTuple):
    """A generation: weights, scores, which members were improved, and the evaluations that each took."""

    weights: Params
    mean: Tensor
    better: Tensor
    evaluations: int


def generation(weights: Params, by: Strategy | str | None, seed: int, rule: str, rollback: bool) -> After:
    """Let all members be trained, by nobody if it is None, and those that became worse go back, if that is asked."""
    if by is None:
        return After(weights, scores(weights, seed, rule), torch.zeros(COUNT, dtype=torch.bool), SCORED * STEPS)
    stack = [Population(weights, rule=rule), by]
    run = finished(SideBySide(of=TASK), stack, steps=UPDATES * STEPS, tasks=TASKS, seed=seed + 1)
    moved = [p.detach().clone() for p in run.engine.state.slots["population"].params]
    before, after = scores([torch.cat(x) for x in zip(weights, moved, strict=True)], seed, rule).chunk(2)
    keep = after < before if rollback else torch.ones(COUNT, dtype=torch.bool)
    weights = [torch.where(over(keep, w), a, w) for a, w in zip(moved, weights, strict=True)]
    spent = run.budget.total.gradient + run.budget.total.loss + 2 * SCORED * STEPS
    return After(weights, torch.where(keep, after, before), after < before, spent)


def bootstrap(way: str, seed: int, rate: float, evaluations: int = 0) -> dict[str, Any]:
    """The history of a population, and its best member on held-out tasks.

    Args:
        rate: of Adam over the weights.
        evaluations: of each member, after which ``selection`` ends.
    """
    begin, trust, spent, dice = time.process_time(), TRUST, 0, torch.Generator().manual_seed(seed)
    rule, place = RULE.replace(")", ", inputs=log_sign)") if way == LOG_SIGN else RULE, 1_000_000 * (seed + 1)
    weights = first(seed, rule)
    order = (mean := scores(weights, place, rule)).argsort().tolist()
    told = [[float(mean.min()), float(mean.median()), 0, trust]]
    while spent < evaluations if way == "selection" else len(told) <= GENERATIONS:
        of = {"self": [*range(COUNT)], "any": torch.randint(COUNT, (COUNT,), generator=dice).tolist()}
        others = {"adam above": f"adam(lr={rate})", "selection": None}
        teachers = Teachers(rule=rule, of=of.get(way, [order[0]] * COUNT), trust=trust)
        by = others.get(way, teachers)
        weights, mean, better, cost = generation(weights, by, place + 10 * len(told), rule, way != "self")
        order, spent = mean.argsort().tolist(), spent + cost
        told.append([float(mean.min()), float(mean.median()), int(better.sum()), trust])
        trust *= 1.0 if way == "self" or 2 * int(better.sum()) >= COUNT else 0.5
        if way != "self":
            weights = copied(weights, order, dice)
    seconds, one = time.process_time() - begin, strategy(rule)
    own = zip(one.named_parameters(), weights, strict=True)
    one.load_state_dict({name: w[order[0]] for (name, _), w in own}, strict=False)
    return {"generations": told, "evaluations": spent, "seconds": seconds, **held_out([one], OTHER)}


def held_out(stack: Sequence[Strategy] | str, seed: int, kinds: Sequence[str] = tuple(HELD_OUT)) -> dict[str, Any]:
    """By kind: the test loss and accuracy at the end, and the mean training loss, over 64 tasks."""
    found = {}
    for kind in kinds:
        task, steps = HELD_OUT[kind]
        one = finished(task, stack, steps=steps, tasks=64, seed=seed)
        found[kind] = {**one.after, "training": float(one.losses.mean())}
    return {"held out": found}


def run(given: argparse.Namespace) -> None:
    """Run what is not there yet."""
    warnings.simplefilter("ignore")

    def one(way: str, seed: int, rate: float, make: Callable[..., dict[str, Any]], *its: Any) -> Any:
        for line in lines(given.out):
            if (line["way"], line["seed"], line["rate"]) == (way, seed, rate):
                return line
        found = {"way": way, "seed": seed, "rate": rate, **make(*its)}
        with given.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        return found

    for rule, rates in RATES.items():
        for rate in rates:
            for seed in (TUNING, OTHER):
                one(rule, seed, rate, held_out, f"{rule}(lr={rate})", seed)
    above = 0.0
    if "adam above" in given.ways:
        tried = {rate: one("adam above", TUNED, rate, bootstrap, "adam above", TUNED, rate) for rate in ABOVE}
        above = min(ABOVE, key=lambda rate: tried[rate]["generations"][-1][0])
    for seed in range(given.first, given.first + given.seeds):
        for way in given.ways:
            rate, most = above if way == "adam above" else 0.0, 0
            if way == "selection":
                most = one("best", seed, 0.0, bootstrap, "best", seed, 0.0)["evaluations"]
            one(way, seed, rate, bootstrap, way, seed, rate, most)


def best(found: Sequence[Mapping[str, Any]], rule: str, kind: str) -> Mapping[str, Any]:
    """What a rule gives with the rate of least test loss on the tasks for tuning: the rate, and what is measured."""
    rows = {(x["rate"], x["seed"]): x["held out"][kind] for x in found if x["way"] == rule}
    rate = min((rate for rate, seed in rows if seed == TUNING), key=lambda rate: rows[rate, TUNING]["loss"])
    return {"rate": rate, **rows[rate, OTHER]}


def table(given: argparse.Namespace) -> None:
    """By kind of held-out tasks: test losses, ratios to tuned SGD's and Adam's; then the course of populations."""
    found = lines(given.out)
    tuned = {kind: {rule: best(found, rule, kind) for rule in RATES} for kind in HELD_OUT}
    own = {way: [x for x in found if x["way"] == way and x["seed"] != TUNED] for way in WAYS}
    own = {way: rows for way, rows in own.items() if len(rows) > 1}
    for kind, by in tuned.items():
        print(f"| {kind} | seeds | test loss, median (all) | accuracy | over tuned SGD's | over tuned Adam's |")
        print("|---|---|---|---|---|---|")
        for rule, x in by.items():
            ratios = " | ".join(f"{x['loss'] / other['loss']:.2f}" for other in by.values())
            print(f"| {rule}(lr={x['rate']:g}) | | {x['loss']:.3f} | {x['accuracy']:.1%} | {ratios} |")
        for way, rows in own.items():
            losses = [x["held out"][kind]["loss"] for x in rows]
            right = statistics.median(x["held out"][kind]["accuracy"] for x in rows)
            ratios = " | ".join(ratio([math.log(x / other["loss"]) for x in losses]) for other in by.values())
            middle = f"{statistics.median(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"
            print(f"| {way} | {len(rows)} | {middle} | {right:.1%} | {ratios} |")
        print()
    print("| way | evaluations | seconds | improved by training | at the start | 1/6 | 1/3 | 2/3 | end |")
    print("|---|---|---|---|---|---|---|---|---|")
    for way, rows in own.items():
        each = [x["generations"] for x in rows]
        at = [round(share * (len(each[0]) - 1)) for share in (0, 1 / 6, 1 / 3, 2 / 3, 1)]
        course = " | ".join(f"{statistics.median(one[n][0] for one in each):.2f}" for n in at)
        won = statistics.fmean(one[n][2] for one in each for n in range(1, len(one))) / COUNT
        print(f"| {way} | {COUNT * statistics.fmean(x['evaluations'] for x in rows):,.0f} | "
              f"{statistics.median(x['seconds'] for x in rows):.0f} | {won:.0%} | {course} |")  # fmt: skip


def main() -> None:
    """Run or print."""

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)

    run_and_table(__doc__, run, table, options)


if __name__ == "__main__":
    main()
