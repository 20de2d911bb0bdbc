"""What a window keeps, against its length T, and what recopt.Optimizer keeps beside a model and its gradients.

    python benchmarks/memory.py [--lengths 5 10 20 40] [--batches 32 256] [--hidden 64]
    python benchmarks/memory.py --optimizers

The first: exact unrolls and the cotangent form (second derivatives dropped). It counts the bytes of the tensors that
autograd saves while a window is open, by the shapes of what saves them: those whose first dimension is the batch are
activations. The exact form keeps every step's activations; the cotangent form keeps none, so its column must be the
same for every batch size. The second: copies of the parameters (MLP 784-512-512-10, float32) in the storages of all
tensors that are alive after ten steps and were not before the optimizer was made. Bytes are counted, not sampled, so
they repeat.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import recopt
from recopt.contracts.task import Batch, Split, Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.stacks.plugins import load_strategy


class Images(Task):
    """Random images through one hidden layer."""

    hidden = 64
    rows = 32

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(784, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 10))

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index)
        return torch.rand(self.rows, 784, generator=g), torch.randint(10, (self.rows,), generator=g)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])


def kept(length: int, rows: int, hidden: int, exact: bool) -> int:
    """The most bytes of distinct storages that are saved for backward at any moment of one window."""
    task = Images()
    task.rows, task.hidden = rows, hidden
    levels = [
        Level(moves="task", by="adam"),
        Level(moves="adam", by="top", every=length, gradient="unroll", second_order=exact),
    ]
    engine = Engine(task, Graph(levels, {"adam": load_strategy("adam")(), "top": load_strategy("sgd")(lr=1e-3)}))
    alive: dict[int, int] = {}
    count: dict[int, int] = {}
    peak = 0

    class Held:
        """One saved tensor; its storage counts once however often it is saved."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            alive[self.key] = tensor.untyped_storage().nbytes()
            count[self.key] = count.get(self.key, 0) + 1

        def __del__(self) -> None:
            count[self.key] -= 1
            if not count[self.key]:
                del alive[self.key], count[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        for _ in range(length):
            engine.step()
            peak = max(peak, sum(alive.values()))
    return peak


def table(lengths: Sequence[int], batches: Sequence[int], hidden: int) -> str:
    """One row per length: MB kept, exact and cotangent, per batch size."""
    rows = ["T    " + "".join(f"{form:>10s} B={b:<5d}" for form in ("exact", "cotangent") for b in batches)]
    for length in lengths:
        found = [kept(length, b, hidden, exact) / 2**20 for exact in (True, False) for b in batches]
        rows.append(f"{length:<5d}" + "".join(f"{mb:>12.2f} MB  " for mb in found))
    return "\n".join(rows)


def alive() -> dict[int, int]:
    """The bytes of the storages of all tensors that are alive, by their address."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor) and x.layout is torch.strided]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "torch.optim.Adam": lambda m: torch.optim.Adam(m.parameters()),
    "torch.optim.SGD(momentum=0.9)": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "torch.optim.Adafactor": lambda m: torch.optim.Adafactor(m.parameters()),
} | {
    f"{stack or 'paced'}{', average' * average}": lambda m, s=stack, a=average: recopt.Optimizer(
        m.parameters(), s, average=a
    )
    for stack, average in [
        (None, False), (None, True), ("paced(steps=100)", False), ("paced(base=adam)", False),
        ("paced(base=adam,steps=100)", False), ("paced(base=muon)", False), ("paced(base=muon)", True),
        ("paced(base=factored)", False), ("paced(base=factored,steps=100)", False), ("paced(base=factored)", True),
        ("adam", False), ("muon", False),
        ("adam/adagrad[lr]", False), ("adam/kesten[lr]", True), ("adam/sgd[*]", False), ("schedule-free", False),
        ("prodigy", False), ("learned", False),
    ]
}  # fmt: skip


def copies(make: Callable[[nn.Module], torch.optim.Optimizer]) -> float:
    """Copies of the parameters that an optimizer keeps after ten steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x, y = torch.randn(16, 784), torch.randint(10, (16,))
    cross_entropy(model(x), y).backward()
    grads = [p.grad for p in model.parameters()]  # which are not the optimizer's
    before = alive()
    optimizer = make(model)
    for _ in range(10):
        optimizer.zero_grad(set_to_none=False)
        loss = cross_entropy(model(x), y)
        loss.backward()
        if isinstance(optimizer, recopt.Optimizer):
            optimizer.step(loss=loss)
        else:
            optimizer.step()
    kept = sum(bytes_ for place, bytes_ in alive().items() if place not in before)
    return kept / sum(g.nbytes for g in grads if g is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--optimizers", action="store_true", help="copies of the parameters by optimizer")
    given = parser.parse_args()
    if given.optimizers:
        for name, make in OPTIMIZERS.items():
            print(f"{name:32} {copies(make):5.2f}", flush=True)
        return
    print(table(given.lengths, given.batches, given.hidden))


if __name__ == "__main__":
    main()
