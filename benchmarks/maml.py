"""Learned starts against MAML written with higher, on the same tasks: sine waves from 10 points, and 5-way images.

    python benchmarks/maml.py [--task sinusoid|few-shot] [--updates 2000] [--tasks 8] [--seed 0]

Adam moves the start at rate 0.001, over episodes of 5 steps of SGD, on new tasks at every update. Then 200 new tasks
are learned in 5 steps from each start: the loss on their test points, and the accuracy. The loop with higher is that of
its examples (`copy_initial_weights=False`, one task after the other, one step of the outer Adam on the mean). `recopt,
LSTM` learns a rule beside the start (Ravi & Larochelle 2017); new tasks are then learned by that rule.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import higher
import torch
from torch import nn

import recopt
from recopt.running.export import write_export
from recopt.tasks import make

Maker = Callable[[nn.Module], torch.optim.Optimizer]
Learner = Callable[[recopt.Task, float, int, int, int], tuple[nn.Module, Maker]]
"""Of task, inner rate, updates, tasks an update, seed: the start, and a maker of what new tasks are learned by."""

STEPS, NEW = 5, 200
TASKS = {
    "sinusoid": ("sinusoid", {}, {}, 0.01),
    "few-shot": ("few-shot", {"kinds": "seen"}, {"kinds": "new"}, 0.4),
}  # name, options in training and of new tasks, inner rate


def plain(rate: float) -> Maker:
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate)


def with_higher(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> tuple[nn.Module, Maker]:
    """The start that a loop with higher learns."""
    torch.manual_seed(seed)
    model = task.model()
    outer = torch.optim.Adam(model.parameters(), lr=0.001)
    inner = torch.optim.SGD(model.parameters(), lr=rate)
    for update in range(updates):
        outer.zero_grad()
        for n in range(tasks):
            one = task.sample(seed + 1_000_000 + update * tasks + n)
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (patched, diffopt):
                for step in range(STEPS):
                    diffopt.step(one.loss(patched, one.batch(step)))
                (one.loss(patched, one.batch(STEPS, "valid")) / tasks).backward()
        outer.step()
    return model, plain(rate)


def with_recopt(stack: str, more: list[str]) -> Learner:
    """The start that a stack above SGD learns."""

    def learn(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> tuple[nn.Module, Maker]:
        told = [f"level2.episode={STEPS}", *more]
        found = recopt.run(task, f"sgd(lr={rate})/{stack}", settings=told, steps=STEPS * updates, tasks=tasks,
                           seed=seed, track=False, measure=0, progress=False)  # fmt: skip
        return found.start(), plain(rate)

    return learn


def with_rule(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> tuple[nn.Module, Maker]:
    """The start and the rule that are learned together, as Ravi and Larochelle do."""
    told = [f"level{n}.{x}" for n in (2, 3) for x in (f"episode={STEPS}", f"every={STEPS}", "second_order=false")]
    found = recopt.run(task, "meta-lstm/init:adam(lr=0.001)+adam(lr=0.01)", steps=STEPS * updates, tasks=tasks,
                       seed=seed, settings=[*told, "level3.on=valid", "level3.objective=last"], track=False,
                       measure=0, progress=False)  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    write_export(found.engine, found.spec, folder, model=False)
    return found.start(), lambda model: recopt.Optimizer(model.parameters(), folder)


def scored(task: recopt.Task, start: nn.Module, maker: Maker) -> tuple[float, float]:
    """Mean loss and accuracy on new tasks after as many steps from ``start``."""
    losses, right = [], []
    for n in range(NEW):
        one, model = task.sample(9_000_000 + n), copy.deepcopy(start)
        inner = maker(model)
        for step in range(STEPS):
            inner.zero_grad()
            loss = one.loss(model, one.batch(step))
            loss.backward()
            inner.step(loss=loss) if isinstance(inner, recopt.Optimizer) else inner.step()
        with torch.no_grad():
            losses.append(float(one.loss(model, one.batch(0, "test"))))
            right.append(float(one.metrics(model, one.batch(0, "test")).get("accuracy", torch.nan)))
    return sum(losses) / NEW, sum(right) / NEW


def main() -> None:
    """Print one line for each way of learning the start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, default="sinusoid")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", help="some of those that it prints, like 'recopt, LSTM'; all by default")
    given = parser.parse_args()
    name, seen, new, rate = TASKS[given.task]
    torch.manual_seed(given.seed)
    ways: dict[str, Learner] = {
        "none": lambda task, rate, *_: (task.model(), plain(rate)),
        "higher": with_higher,
        "recopt, MAML": with_recopt("init:adam(lr=0.001)", []),
        "recopt, first order": with_recopt("init:adam(lr=0.001)", ["level2.second_order=false"]),
        "recopt, iMAML": with_recopt(
            "init:adam(lr=0.001)", ["level2.gradient=implicit", "level2.proximal=2", "level2.iterations=5"]
        ),
        "recopt, Reptile": with_recopt("init:sgd(lr=0.5)", ["level2.gradient=reptile"]),
        "recopt, LSTM": with_rule,
    }
    for way in given.ways or ways:
        learn = ways[way]
        begin = time.perf_counter()
        start, maker = learn(make(name, **seen), rate, given.updates, given.tasks, given.seed)
        loss, accuracy = scored(make(name, **new), start, maker)
        spent = time.perf_counter() - begin
        print(f"{way:20} loss {loss:.3f}  accuracy {accuracy:.4f}  {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
