"""A meta-training step over tasks divided among two processes, against one process with all of them.

    python benchmarks/ranks.py [--tasks 8] [--length 20] [--width 20] [--rounds 10]

`lstm/adam` on a 64-WIDTH-10 network with batches of 128 random images, a task each with weights of its own, windows of
LENGTH steps with second derivatives dropped. Each process computes with one thread. One process and two take turns,
round by round (the second waits meanwhile), so that what the machine does besides falls on both. Printed are the median
time of a window, the median of the paired ratios with its quartiles, and what one sum over the processes takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy

from recopt.contracts.task import Batch, Split, Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.ranks.link import Link
from recopt.ranks.shared import ONE, Ranks
from recopt.stacks.plugins import load_strategy

POOL: list[Batch] = []


class Images(Task):
    """Random images, drawn once."""

    width = 20

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, self.width), nn.Sigmoid(), nn.Linear(self.width, 10))

    def batch(self, index: int, split: Split = "train") -> Batch:
        return POOL[index % len(POOL)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])


def engine(tasks: int, length: int, ranks: Ranks) -> Engine:
    """Meta-training of an LSTM."""
    torch.manual_seed(0)
    levels = [Level(moves="task", by="lstm"), Level(moves="lstm", by="adam", every=length)]
    graph = Graph(levels, {"lstm": load_strategy("lstm")(), "adam": load_strategy("adam")()})
    return Engine(Images(), graph, tasks=tasks, ranks=ranks)


def timed(work: Callable[[], object]) -> float:
    """The seconds that ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def work(rank: int, folder: str, args: argparse.Namespace) -> None:
    """One of two processes."""
    Images.width = args.width
    torch.set_num_threads(1)
    dice = torch.Generator().manual_seed(0)
    POOL.extend((torch.randn(128, 64, generator=dice), torch.randint(10, (128,), generator=dice)) for _ in range(20))
    store = distributed.FileStore(str(Path(folder) / "store"), 2)  # type: ignore[attr-defined]
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=timedelta(seconds=600))
    ranks = Ranks(Link(rank, 2, store, store, 600), args.tasks)
    both, alone = engine(args.tasks, args.length, ranks), engine(args.tasks, args.length, ONE) if rank == 0 else None

    def window(made: Engine) -> None:
        made.run(made.state.step + args.length)

    times: list[tuple[float, float]] = []
    for turn in range(args.rounds + 1):
        one = timed(lambda: window(alone)) if alone else 0.0
        ranks.totals([0.0])  # the second waits here
        two = timed(lambda: window(both))
        times += [(one, two)] if turn else []  # the first warms up
    sums = timed(lambda: [ranks.totals([0.0] * 8) for _ in range(200)]) / 200
    if rank == 0:
        ratios = [one / two for one, two in times]
        low, middle, high = statistics.quantiles(ratios, n=4)
        each = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
        print(f"one process {each[0]:.0f} ms a window, two {each[1]:.0f} ms")
        print(f"two are {middle:.2f} ({low:.2f} to {high:.2f}) times as fast; one sum takes {1e6 * sums:.0f} µs")
    distributed.destroy_process_group()


def main() -> None:
    """Start both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tasks", 8), ("length", 20), ("width", 20), ("rounds", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (folder, args), nprocs=2)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
