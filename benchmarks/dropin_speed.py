"""What a tower costs: the whole step (forward, backward, step) against torch.optim.Adam's on the same work.

    python benchmarks/dropin_speed.py [--rounds N] [--steps N] [--threads N] [--only NAME …]
                                       [--processor] [--published]

MLP 784-128-10, batch 256, CPU, two threads. Each round times a block of steps of every optimizer in turn, so that
what else the machine does falls on all alike. First figure: the median over rounds of the ratio within a round, with
its quartiles. Second: the ratio of each one's fastest block, which is what a busy machine disturbs least. Third: the
median against torch's ``fused=True``. ``--processor`` counts the processor time of one thread instead of the time on
the clock, for machines that others work on.
Targets: height 2 at most 1.14 times, height 20 at most 1.32.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

import recopt

Clock = Callable[[], float]
PLAIN, FUSED = "torch.optim.Adam", "torch.optim.Adam(fused=True)"
KEPT = "the default, with a history"
BATCH, WIDTH, HIDDEN, CLASSES = 256, 784, 128, 10


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sixteen batches in turn. One alone would soon be learned, and gradients near 0 are slow arithmetic."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, BATCH, WIDTH, generator=draw), torch.randint(0, CLASSES, (16, BATCH), generator=draw)
    return itertools.cycle(zip(x, y, strict=True))


def workload(make: Callable[[nn.Module], torch.optim.Optimizer], clock: Clock) -> Callable[[int], float]:
    """A function that makes some steps and returns the seconds per step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    data = batches()
    optimizer = make(model)

    def block(steps: int) -> float:
        begin = clock()
        for _ in range(steps):
            x, y = next(data)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return (clock() - begin) / steps

    return block


def published(height: int, clock: Clock) -> Callable[[int], float]:
    """The published towers (pip: gradient-descent-the-ultimate-optimizer): Adam / SGD / …, on the same work."""
    from gradient_descent_the_ultimate_optimizer import gdtuo

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    data = batches()
    optimizer = gdtuo.NoOpOptimizer()
    for _ in range(height - 1):
        optimizer = gdtuo.SGD(1e-7, optimizer=optimizer)
    wrapped = gdtuo.ModuleWrapper(model, optimizer=gdtuo.Adam(optimizer=optimizer))
    wrapped.initialize()

    def block(steps: int) -> float:
        begin = clock()
        for _ in range(steps):
            x, y = next(data)
            wrapped.begin()
            loss = nn.functional.cross_entropy(wrapped.forward(x), y)
            wrapped.zero_grad()
            loss.backward(create_graph=True)
            wrapped.step()
        return (clock() - begin) / steps

    return block


STACKS: dict[str, tuple[str, int]] = {
    "adam": ("adam", 1), "paced": ("paced", 1), "paced(steps=1000)": ("paced(steps=1000)", 1),
    "paced(base=adam)": ("paced(base=adam)", 1),
    "paced(base=adam,steps=1000)": ("paced(base=adam,steps=1000)", 1),
    "paced(base=muon)": ("paced(base=muon)", 1),
    "paced(base=factored)": ("paced(base=factored)", 1),
    "adam/adagrad(lr=1)[lr]": ("adam/adagrad(lr=1)[lr]", 2),
    "adam/sgd": ("adam/sgd", 2),
    "adam/sgd[*]": ("adam/sgd[*]", 2),
    "adam/sgd[*] x5": ("adam/sgd[*]", 5), "adam/sgd[*] x20": ("adam/sgd[*]", 20),
    "adam/adam[*]": ("adam/adam[*]", 2), "adam/adam[*] x20": ("adam/adam[*]", 20), "adam x20": ("adam", 20),
}  # fmt: skip
"""By name, the stack and its depth."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="of the stacks, those to time")
    parser.add_argument("--processor", action="store_true", help="processor time, one thread")
    parser.add_argument("--published", action="store_true", help="also time the published implementation")
    options = parser.parse_args()
    threads, clock = (1, time.thread_time) if options.processor else (options.threads, time.perf_counter)
    torch.set_num_threads(threads)
    work = {
        PLAIN: workload(lambda m: torch.optim.Adam(m.parameters()), clock),
        FUSED: workload(lambda m: torch.optim.Adam(m.parameters(), fused=True), clock),
    }
    for name, (stack, depth) in STACKS.items():
        if options.only and name not in options.only:
            continue
        work[name] = workload(lambda m, s=stack, d=depth: recopt.Optimizer(m.parameters(), s, depth=d), clock)
    work[KEPT] = workload(lambda m: recopt.Optimizer(m.parameters(), callback=recopt.History()), clock)
    if options.published:
        work |= {f"published height {h}": published(h, clock) for h in (1, 2, 20)}
    for block in work.values():
        block(20)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, block in work.items():
            seconds[name].append(block(options.steps))
    best = min(seconds[PLAIN])
    print(f"{PLAIN}: {best * 1e3:.3f} ms a step in its fastest block, {threads} threads")
    print(f"{'':30s} median [quartiles]     fastest   against fused")
    for name, found in seconds.items():
        low, middle, high = statistics.quantiles(_over(found, seconds[PLAIN]), n=4)
        fused = statistics.median(_over(found, seconds[FUSED]))
        print(f"{name:30s} {middle:6.3f} [{low:.3f}, {high:.3f}]   {min(found) / best:6.3f}   {fused:6.3f}")


def _over(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    main()
