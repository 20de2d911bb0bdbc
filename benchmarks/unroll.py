"""Exact unrolls: recopt against a hand-written one (torch.func) and against plain ``higher``, on the same work.

    python benchmarks/unroll.py [--hidden 20] [--batch 128] [--length 20] [--rounds 30] [--threads 1] [--record]

One window: ``length`` steps of gradient descent on a 784-hidden-10 network, each on its own batch, the
mean loss after them, and its exact derivative by the logarithm of the learning rate. The three take turns, round by
round, so that what the machine does besides falls on all of them; the medians of the paired ratios are printed.
``--record``: recopt's also tells its record (the norms of updates among it), which the others do not have.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from recopt.contracts.task import Batch, Split, Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.stacks.plugins import load_strategy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher


class Images(Task):
    """Random images, drawn once; the same batches for all three."""

    hidden = 20
    rows = 128

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(784, self.hidden), nn.Sigmoid(), nn.Linear(self.hidden, 10))

    def batch(self, index: int, split: Split = "train") -> Batch:
        return POOL[index % len(POOL)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])


POOL: list[tuple[Tensor, Tensor]] = []


def by_hand(task: Images, length: int) -> Callable[[], Tensor]:
    model = task.model()
    log_lr = torch.tensor(-2.3, requires_grad=True)
    names = [n for n, _ in model.named_parameters()]
    params = {n: p.detach() for n, p in model.named_parameters()}
    clock = [0]

    def window() -> Tensor:
        here = {n: p.detach().requires_grad_() for n, p in params.items()}
        total = torch.zeros(())
        for t in range(length + 1):
            x, y = POOL[(clock[0] + t) % len(POOL)]
            loss = cross_entropy(functional_call(model, here, (x,)), y)
            total = total + loss / length if t else total
            if t < length:
                grads = torch.autograd.grad(loss, [here[n] for n in names], create_graph=t > 0)
                here = {n: here[n] - log_lr.exp() * g for n, g in zip(names, grads, strict=True)}
        clock[0] += length
        (h,) = torch.autograd.grad(total, log_lr)
        params.update({n: p.detach() for n, p in here.items()})
        return h

    return window


def by_higher(task: Images, length: int) -> Callable[[], Tensor]:
    model = task.model()
    log_lr = torch.tensor(-2.3, requires_grad=True)
    clock = [0]

    def window() -> Tensor:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, optimizer, override={"lr": [log_lr.exp()]}) as (fmodel, diffopt):
            total = torch.zeros(())
            for t in range(length + 1):
                x, y = POOL[(clock[0] + t) % len(POOL)]
                loss = cross_entropy(fmodel(x), y)
                total = total + loss / length if t else total
                if t < length:
                    diffopt.step(loss)
            clock[0] += length
            (h,) = torch.autograd.grad(total, log_lr)
            with torch.no_grad():
                for p, q in zip(model.parameters(), fmodel.parameters(), strict=True):
                    p.copy_(q)
        return h

    return window


def by_recopt(task: Images, length: int, record: bool) -> Callable[[], None]:
    levels = [
        Level(moves="task", by="sgd"),
        Level(moves="sgd", by="top", every=length, gradient="unroll", second_order=True, normalize="none"),
    ]
    slots = {"sgd": load_strategy("sgd")(lr=0.1), "top": load_strategy("sgd")(lr=1e-9)}
    engine = Engine(task, Graph(levels, slots), sink=(lambda level, step, values: None) if record else None)
    engine.step()
    return lambda: engine.run(engine.state.step + length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden", 20), ("batch", 128), ("length", 20), ("rounds", 30), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--record", action="store_true", help="tell a record")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    POOL.extend((torch.rand(given.batch, 784), torch.randint(10, (given.batch,))) for _ in range(64))
    task = Images()
    task.hidden = given.hidden  # type: ignore[misc]
    ours = by_recopt(task, given.length, given.record)
    work: dict[str, Callable[[], object]] = {
        "recopt": ours, "by hand": by_hand(task, given.length), "higher": by_higher(task, given.length),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(given.rounds + 3):
        for name, window in work.items():
            begin = time.process_time()
            window()
            if round_ >= 3:
                times[name].append(time.process_time() - begin)
    for name, found in times.items():
        print(f"{name:8s} {1e3 * statistics.median(found):8.2f} ms a window (median of {len(found)})")
    for peer in ("by hand", "higher"):
        ratio = statistics.median(a / b for a, b in zip(times["recopt"], times[peer], strict=True))
        print(f"recopt / {peer}: {ratio:.2f}")


if __name__ == "__main__":
    main()
