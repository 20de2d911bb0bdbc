"""Learned starts against MAML written with higher, on the same tasks: sine waves from 10 points, and 5-way images.

    python benchmarks/maml.py [--task sinusoid|few-shot] [--updates 2000] [--tasks 8] [--seeds 1] [--equal]

Adam moves the start at rate 0.001, over episodes of 5 steps of SGD, on new tasks at every update. Then 200 new tasks
are learned in 5 steps from each start: the loss on their test points, and the accuracy. The loop with higher is that of
its examples (`copy_initial_weights=False`, one task after the other, one step of the outer Adam on the mean). `recopt,
LSTM` learns a rule beside the start (Ravi & Larochelle 2017); new tasks are then learned by that rule. iMAML
(Rajeswaran et al. 2019) learns tasks, new ones too, in 16 steps that a penalty holds near the start, with 5 steps of
conjugate gradients. With ``--equal`` each way makes the updates that cost as many evaluations, Hessian-vector products
included, as those of MAML. Means and deviations over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import higher
import torch
from torch import nn

import recopt
from recopt.running.export import write_export
from recopt.tasks import make

Maker = Callable[[nn.Module], torch.optim.Optimizer]
Learner = Callable[[recopt.Task, float, int, int, int], tuple[nn.Module, Maker]]
"""Of task, inner rate, updates, tasks an update, seed: the start, and a maker of what new tasks are learned by."""

STEPS, HELD, NEW = 5, 16, 200
TASKS = {
    "sinusoid": ("sinusoid", {}, {}, 0.01, 0.01, 2.0),
    "few-shot": ("few-shot", {"kinds": "seen"}, {"kinds": "new"}, 0.4, 0.2, 0.5),
}  # name, options in training and of new tasks, inner rate; that of iMAML, and its penalty λ


class Near(torch.optim.SGD):
    """SGD with ½ λ ‖θ − start‖² in its loss, ``steps`` of it."""

    steps = HELD

    def __init__(self, model: nn.Module, rate: float, pull: float) -> None:
        super().__init__(model.parameters(), lr=rate)
        self.pull, self.ties = pull, [(p, p.detach().clone()) for p in model.parameters()]

    def step(self, closure: Any = None) -> None:
        """One step."""
        for p, start in self.ties:
            if p.grad is not None:
                p.grad.add_(p.detach() - start, alpha=self.pull)
        super().step()


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
        return trained(task, f"sgd(lr={rate})/{stack}", told, STEPS * updates, tasks, seed).start(), plain(rate)

    return learn


def held(pull: float, own: float) -> Learner:
    """The start that iMAML learns, in episodes of SGD at rate ``own``."""

    def learn(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> tuple[nn.Module, Maker]:
        told = [f"level2.episode={HELD}", "level2.gradient=implicit", f"level2.proximal={pull}", "level2.iterations=5"]
        start = trained(task, f"sgd(lr={own})/init:adam(lr=0.001)", told, HELD * updates, tasks, seed).start()
        return start, lambda model: Near(model, own, pull)

    return learn


SPENT = list[int]()
"""The evaluations of each run, of all tasks."""


def trained(task: recopt.Task, stack: str, told: list[str], steps: int, tasks: int, seed: int) -> recopt.Result:
    """A run without a record."""
    found = recopt.run(task, stack, settings=told, steps=steps, tasks=tasks, seed=seed, track=False, measure=0,
                       progress=False)  # fmt: skip
    SPENT.append(found.budget.total.evaluations)
    return found


def price(learn: Learner, task: recopt.Task, rate: float, tasks: int) -> float:
    """The evaluations that an update costs."""
    for updates in (2, 4):
        learn(task, rate, updates, tasks, 0)
    return (SPENT[-1] - SPENT[-2]) / 2


def with_rule(task: recopt.Task, rate: float, updates: int, tasks: int, seed: int) -> tuple[nn.Module, Maker]:
    """The start and the rule that are learned together, as Ravi and Larochelle do."""
    told = [f"level{n}.{x}" for n in (2, 3) for x in (f"episode={STEPS}", f"every={STEPS}", "second_order=false")]
    told += ["level3.on=valid", "level3.objective=last"]
    found = trained(task, "meta-lstm/init:adam(lr=0.001)+adam(lr=0.01)", told, STEPS * updates, tasks, seed)
    folder = Path(tempfile.mkdtemp())
    write_export(found.engine, found.spec, folder, model=False)
    return found.start(), lambda model: recopt.Optimizer(model.parameters(), folder)


def scored(task: recopt.Task, start: nn.Module, maker: Maker) -> tuple[float, float]:
    """Mean loss and accuracy on new tasks after as many steps from ``start``."""
    losses, right = [], []
    for n in range(NEW):
        one, model = task.sample(9_000_000 + n), copy.deepcopy(start)
        inner = maker(model)
        for step in range(getattr(inner, "steps", STEPS)):
            inner.zero_grad()
            loss = one.loss(model, one.batch(step))
            loss.backward()
            inner.step(loss=loss) if isinstance(inner, recopt.Optimizer) else inner.step()
        with torch.no_grad():
            losses.append(float(one.loss(model, one.batch(0, "test"))))
            right.append(float(one.metrics(model, one.batch(0, "test")).get("accuracy", torch.nan)))
    return sum(losses) / NEW, sum(right) / NEW


def spread(values: Sequence[float]) -> float:
    """The standard deviation; 0 of one value."""
    return stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Print one line for each way of learning the start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, default="sinusoid")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--equal", action="store_true", help="as many evaluations as MAML, in the place of updates")
    parser.add_argument("--ways", nargs="+", help="some of those that it prints, like 'recopt, LSTM'; all by default")
    given = parser.parse_args()
    name, seen, new, rate, own, pull = TASKS[given.task]
    torch.set_num_threads(1)
    ways: dict[str, Learner] = {
        "none": lambda task, rate, *_: (task.model(), plain(rate)),
        "higher": with_higher,
        "recopt, MAML": with_recopt("init:adam(lr=0.001)", []),
        "recopt, first order": with_recopt("init:adam(lr=0.001)", ["level2.second_order=false"]),
        "recopt, iMAML": held(pull, own),
        "recopt, Reptile": with_recopt("init:sgd(lr=0.5)", ["level2.gradient=reptile"]),
        "recopt, LSTM": with_rule,
    }
    for way in given.ways or ways:
        learn, begin, ends, updates = ways[way], time.perf_counter(), list[tuple[float, float]](), given.updates
        if given.equal and way.startswith("recopt"):
            each = [price(x, make(name, **seen), rate, given.tasks) for x in (ways["recopt, MAML"], learn)]
            updates = round(updates * each[0] / each[1])
        for seed in range(given.seeds):
            torch.manual_seed(seed)
            start, maker = learn(make(name, **seen), rate, updates, given.tasks, seed)
            ends.append(scored(make(name, **new), start, maker))
        (loss, right), (off, apart) = ([f(x) for x in zip(*ends, strict=True)] for f in (mean, spread))
        print(f"{way:20} {updates:5} updates  loss {loss:.3f} ± {off:.3f}  accuracy {right:.4f} ± {apart:.4f}  "
              f"{time.perf_counter() - begin:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
