"""Learned starts against MAML written with higher, on the same tasks: sine waves from 10 points, and 5-way images.

    python benchmarks/maml.py [--task sinusoid|few-shot] [--updates 2000] [--tasks 8] [--seed 0]

Adam moves the start at rate 0.001, over episodes of 5 steps of SGD, on new tasks at every update. Then 200 new tasks
are learned in 5 steps from each start: the loss on their test points, and the accuracy. The loop with higher is that of
its examples (`copy_initial_weights=False`, one task after the other, one step of the outer Adam on the mean).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import higher
import torch
from torch import nn

import recopt
from recopt.tasks import make

STEPS, NEW = 5, 200
TASKS = {
    "sinusoid": ("sinusoid", {}, {}, 0.01),
    "few-shot": ("few-shot", {"kinds": "seen"}, {"kinds": "new"}, 0.4),
}  # name, options in training and of new tasks, inner rate


def with_higher(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> nn.Module:
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
    return model


def with_recopt(stack: str, more: list[str]) -> Callable[[recopt.Task, float, int, int, int], nn.Module]:
    """The start that a stack learns."""

    def learn(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> nn.Module:
        told = [f"level2.episode={STEPS}", *more]
        return recopt.run(task, f"sgd(lr={rate})/{stack}", settings=told, steps=STEPS * updates, tasks=tasks, seed=seed,
                          track=False, measure=0, progress=False).start()  # fmt: skip

    return learn


def scored(task: recopt.Task, start: nn.Module, rate: float) -> tuple[float, float]:
    """Mean loss and accuracy on new tasks after as many steps from ``start``."""
    losses, right = [], []
    for n in range(NEW):
        one, model = task.sample(9_000_000 + n), copy.deepcopy(start)
        inner = torch.optim.SGD(model.parameters(), lr=rate)
        for step in range(STEPS):
            inner.zero_grad()
            one.loss(model, one.batch(step)).backward()
            inner.step()
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
    given = parser.parse_args()
    name, seen, new, rate = TASKS[given.task]
    torch.manual_seed(given.seed)
    ways: dict[str, Callable[[recopt.Task, float, int, int, int], nn.Module]] = {
        "none": lambda task, *_: task.model(),
        "higher": with_higher,
        "recopt, MAML": with_recopt("init:adam(lr=0.001)", []),
        "recopt, first order": with_recopt("init:adam(lr=0.001)", ["level2.second_order=false"]),
        "recopt, iMAML": with_recopt(
            "init:adam(lr=0.001)", ["level2.gradient=implicit", "level2.proximal=2", "level2.iterations=5"]
        ),
        "recopt, Reptile": with_recopt("init:sgd(lr=0.5)", ["level2.gradient=reptile"]),
    }
    for way, learn in ways.items():
        begin = time.perf_counter()
        start = learn(make(name, **seen), rate, given.updates, given.tasks, given.seed)
        loss, accuracy = scored(make(name, **new), start, rate)
        spent = time.perf_counter() - begin
        print(f"{way:20} loss {loss:.3f}  accuracy {accuracy:.4f}  {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
