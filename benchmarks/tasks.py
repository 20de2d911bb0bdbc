"""Task batches: what sixteen tasks side by side cost, against one, with the same stack.

    python benchmarks/tasks.py [STACK …] [--task digits] [--tasks 16] [--steps 20] [--rounds 15] [--threads 1]

The default task is the digits network (64-20-10, batches of 64: 1,510 parameters). Both runs take turns, ``steps``
steps at a time; printed are the median times of a step, the median of the paired ratios with its quartiles, and the
ratio of each one's fastest block, in processor time. Target: sixteen tasks at less than 4 times the time of one.

Where a rule does much arithmetic for every parameter there is a floor, since sixteen tasks have sixteen times the
parameters: for `lstm` the last line gives what the matrix products alone of sixteen tasks take, as a
multiple of the whole step of one task.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from recopt.engine.engine import Engine
from recopt.running.plan import plan
from recopt.running.start import make_engine


def engine(task: str, stack: str, tasks: int) -> Engine:
    made = plan(task, stack, steps=100_000, tasks=tasks)
    return make_engine(made.spec, made.graph, made.task)


def block(made: Engine, steps: int) -> Callable[[], None]:
    def go() -> None:
        for _ in range(steps):
            made.step()

    return go


def products(columns: int, steps: int) -> Callable[[], None]:
    """The matrix products of the steps of a 2 x 20 LSTM on so many columns, and of their backward passes."""
    width = 3200
    count = -(-columns // width)
    wide = columns // count
    layers = [
        (torch.randn(80, k), torch.randn(k, wide), torch.randn(80, wide), start) for k, start in ((23, 2), (41, 0))
    ]

    def go() -> None:
        for _ in range(steps * count):
            for weight, inputs, slopes, start in layers:
                weight @ inputs
                inputs @ slopes.T
                weight[:, start:-1].T @ slopes

    return go


def measure(work: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each block, in turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds + 2):
        for name, go in work.items():
            begin = time.process_time()
            go()
            if round_ >= 2:
                times[name].append(time.process_time() - begin)
    return times


def ratio(times: dict[str, list[float]], name: str) -> str:
    low, middle, high = statistics.quantiles((a / b for a, b in zip(times[name], times["one"], strict=True)), n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}], fastest {min(times[name]) / min(times['one']):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="*", default=["blend/adam", "lstm/adam", "adam/hypergradient", "adam"])
    parser.add_argument("--task", default="digits")
    for name, default in (("tasks", 16), ("steps", 20), ("rounds", 15), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for stack in given.stacks:
        one, many = engine(given.task, stack, 1), engine(given.task, stack, given.tasks)
        work = {"one": block(one, given.steps), "many": block(many, given.steps)}
        if stack.startswith("lstm/"):
            columns = sum(p.numel() for p in one.slots.point(one.state, 0))
            work["products"] = products(given.tasks * columns, given.steps)
        times = measure(work, given.rounds)
        each = 1e3 * statistics.median(times["one"]) / given.steps
        print(f"{stack:20s} {each:6.2f} ms a step of one task; {given.tasks} tasks: {ratio(times, 'many')}", flush=True)
        if "products" in work:
            print(f"{'':20s} the products alone of {given.tasks} tasks: {ratio(times, 'products')}", flush=True)


if __name__ == "__main__":
    main()
