"""One meta-training step of a learned rule: recopt's `lstm/adam` against a hand-written one, on the same work.

    python benchmarks/metastep.py [--length 20] [--rounds 20] [--threads 1] [--compiled] [--check]

Experiment 2 of Andrychowicz et al. 2016 (1606.04474, §3.2): a 784-20-10 sigmoid network, batches of 128 (random images:
only the time matters here), a coordinatewise LSTM of 2 x 20 units on log-sign inputs, a window of 20 steps with second
derivatives dropped, the mean loss after the window's updates, one backward pass, one step of Adam on the LSTM's
weights. State and point are carried from window to window. By hand means eager PyTorch as it is mostly written: two
`nn.LSTMCell`, the inner gradients detached, the mean loss differentiated through the whole window.

``--compiled`` adds the hand-written one with its rule (inputs, both cells, read-out) under `torch.compile`, which
needs a C++ compiler. All start from the same weights and see the same batches; ``--check`` prints their meta-losses,
which agree up to rounding, instead of times. They take turns, round by round, so that what the machine does
besides falls on all of them. Printed are the median time of a window, the median of the paired ratios with its
quartiles, and the ratio of each one's fastest window, in processor and in wall time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from recopt.contracts.task import Batch, Split, Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.stacks.plugins import load_strategy

POOL: list[tuple[Tensor, Tensor]] = []
LR = 1e-3
Window = Callable[[], float]


class Images(Task):
    """Random images, drawn once; the same batches for all."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(784, 20), nn.Sigmoid(), nn.Linear(20, 10))

    def batch(self, index: int, split: Split = "train") -> Batch:
        return POOL[index % len(POOL)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])


class Rule(nn.Module):
    """The LSTM as it is mostly written, coordinates as rows; the second bias stays zero, since ours has one."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(2, 20), nn.LSTMCell(20, 20)])
        self.out = nn.Linear(20, 1)
        with torch.no_grad():
            for cell, weight, bias in zip(self.cells, like.weights, like.biases, strict=True):
                cell.weight_ih.copy_(weight[:, :-20])
                cell.weight_hh.copy_(weight[:, -20:])
                cell.bias_ih.copy_(bias)
                cell.bias_hh.zero_().requires_grad_(False)
            self.out.weight.copy_(like.read_out)
            self.out.bias.copy_(like.read_out_bias)

    def forward(self, g: Tensor, state: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        small = g.abs() < math.exp(-10)
        log = torch.where(small, -torch.ones_like(g), g.abs().clamp(min=1e-30).log() / 10)
        x = torch.stack([log, torch.where(small, math.exp(10) * g, g.sign())], 1)
        after = []
        for cell, held in zip(self.cells, state, strict=True):
            after.append(cell(x, held))
            x = after[-1][0]
        return 0.1 * self.out(x)[:, 0], after


def by_hand(task: Images, like: Any, length: int, compiled: bool) -> Window:
    rule = Rule(like)
    call: Any = torch.compile(rule) if compiled else rule
    meta = torch.optim.Adam([p for p in rule.parameters() if p.requires_grad], lr=LR)
    torch.manual_seed(1)
    model = task.model()
    here = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    count = sum(p.numel() for p in here.values())
    state = [(torch.zeros(count, 20), torch.zeros(count, 20)) for _ in range(2)]
    seen = 0

    def evaluate() -> tuple[Tensor, Tensor]:
        nonlocal seen
        x, y = POOL[seen % len(POOL)]
        seen += 1
        loss = cross_entropy(functional_call(model, here, (x,)), y)
        grads = torch.autograd.grad(loss, list(here.values()), retain_graph=True)
        return loss, torch.cat([g.reshape(-1) for g in grads])

    g = evaluate()[1]

    def window() -> float:
        nonlocal here, state, g
        total = torch.zeros(())
        for _ in range(length):
            delta, state = call(g, state)
            parts = delta.split([p.numel() for p in here.values()])
            here = {n: p + d.view_as(p) for (n, p), d in zip(here.items(), parts, strict=True)}
            loss, g = evaluate()
            total = total + loss / length
        meta.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        meta.step()
        here = {n: p.detach().requires_grad_() for n, p in here.items()}
        state = [(h.detach(), c.detach()) for h, c in state]
        return total.item()

    return window


def by_recopt(task: Images, like: Any, length: int) -> Window:
    levels = [  # an episode without an end, as by hand
        Level(moves="task", by="lstm"),
        Level(
            moves="lstm",
            by="adam",
            every=length,
            gradient="unroll",
            second_order=False,
            normalize="none",
            episode=1_000_000 * length,
        ),
    ]
    scores: list[Tensor] = []

    def sink(level: int, step: int, values: Any) -> None:
        if level == 2 and "meta_loss" in values:
            scores.append(values["meta_loss"])

    slots = {"lstm": like, "adam": load_strategy("adam")(lr=LR)}
    engine = Engine(task, Graph(levels, slots), seed=1, sink=sink)
    engine.step()

    def window() -> float:
        for _ in range(length):
            engine.step()
        return float(scores[-1])

    return window


def measure(work: dict[str, Window], rounds: int) -> None:
    """Print the times of each, and what they are of the first one's."""
    clocks = {"processor": time.process_time, "wall": time.perf_counter}
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in work} for kind in clocks}
    for round_ in range(rounds + 3):
        for name, window in work.items():
            begin = {kind: clock() for kind, clock in clocks.items()}
            window()
            for kind, clock in clocks.items():
                if round_ >= 3:
                    times[kind][name].append(clock() - begin[kind])
    for name in work:
        print(f"{name:17s}", end="")
        for kind, found in times.items():
            ratios = [a / b for a, b in zip(found[name], found["by hand"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            best = min(found[name]) / min(found["by hand"])
            print(f"   {kind} {1e3 * statistics.median(found[name]):6.1f} ms", end="")
            print(f" {middle:.3f} [{low:.3f}, {high:.3f}], fastest {best:.3f}", end="")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("length", 20), ("rounds", 20), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compiled", action="store_true", help="also the hand-written rule under torch.compile")
    parser.add_argument("--check", action="store_true", help="print the meta-losses of five windows instead of times")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    POOL.extend((torch.rand(128, 784), torch.randint(10, (128,))) for _ in range(64))
    task, like = Images(), load_strategy("lstm")()
    work = {"by hand": by_hand(task, like, given.length, compiled=False)}
    work["recopt"] = by_recopt(task, like, given.length)
    if given.compiled:
        work["by hand, compiled"] = by_hand(task, like, given.length, compiled=True)
    if given.check:
        for _ in range(5):
            print("   ".join(f"{name} {window():.6f}" for name, window in work.items()))
    else:
        measure(work, given.rounds)


if __name__ == "__main__":
    main()
