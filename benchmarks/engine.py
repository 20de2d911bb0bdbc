"""What the engine costs without levels above: recopt.run's `adam` against a hand-written torch.optim.Adam loop.

    python benchmarks/engine.py [--rounds 60] [--steps 25] [--threads 1] [--batch 64]

MLP 784-128-10 (tanh), cross entropy, random data (sixteen batches in turn), float32. Public API only: recopt.run with
track=False, measure=0 and a `progress` function; at the end of every block of steps that function stops the run's
clock, times a block of the hand-written loop on the same batches, and starts the clock again. So blocks interleave.
Included is all of a step of a run: guard, norms that are recorded in memory, the `progress` call (negligible).
Printed: median of the paired ratios with quartiles, ratio of the fastest blocks, and the fastest blocks in ms a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import recopt


class Random(recopt.Task):
    """Random images and labels."""

    size = 64

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.data = [
            (torch.randn(self.size, 784, generator=draw), torch.randint(0, 10, (self.size,), generator=draw))
            for _ in range(16)
        ]

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 10))

    def batch(self, index: int, split: Any = "train") -> Any:
        return self.data[index % 16]

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return cross_entropy(model(x), y)


def measured(stack: str, settings: list[str], rounds: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds a step of recopt.run and of the hand-written loop, by round."""
    task = Random()
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters())
    count = 0

    def by_hand() -> float:
        nonlocal count
        begin = time.perf_counter()
        for _ in range(steps):
            x, y = task.data[count % 16]
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            count += 1
        return (time.perf_counter() - begin) / steps

    ours: list[float] = []
    theirs: list[float] = []
    calls, begin = 0, 0.0

    def progress(_: Any) -> None:
        nonlocal calls, begin
        calls += 1
        if calls % steps == 0:
            ours.append((time.perf_counter() - begin) / steps)
            theirs.append(by_hand())
            begin = time.perf_counter()

    begin = time.perf_counter()
    recopt.run(task, stack, steps=(rounds + 3) * steps, settings=settings, track=False, measure=0, progress=progress)
    return ours[2:], theirs[2:]  # the first blocks warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)  # the data are soon learned by heart, and gradients near 0 are slow arithmetic
    Random.size = given.batch
    print(f"MLP 784-128-10, batch {given.batch}, {given.threads} thread(s)")
    for name, stack, settings in [
        ("adam", "adam", []), ("adam, guard=false", "adam", ["level1.guard=false"]), ("adam/sgd", "adam/sgd", []),
        ("adam/sgd/sgd", "adam/sgd/sgd", []),
    ]:  # fmt: skip
        ours, theirs = measured(stack, settings, given.rounds, given.steps)
        low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
        print(f"{name:18s} median {middle:.3f} [{low:.3f}, {high:.3f}]   of fastest {min(ours) / min(theirs):.3f}   "
              f"({min(ours) * 1e3:.3f} / {min(theirs) * 1e3:.3f} ms)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
