"""What a window keeps, against its length T: exact unrolls and the cotangent form (second derivatives dropped).

    python benchmarks/memory.py [--lengths 5 10 20 40] [--batches 32 256] [--hidden 64]

Counts the bytes of the tensors that autograd saves while a window is open, by the shapes of what saves them: those
whose first dimension is the batch are activations. The exact form keeps every step's activations; the cotangent form
keeps none, so its column must be the same for every batch size. Bytes are counted, not sampled, so they repeat.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--hidden", type=int, default=64)
    given = parser.parse_args()
    print(table(given.lengths, given.batches, given.hidden))


if __name__ == "__main__":
    main()
