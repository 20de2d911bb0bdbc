"""A task: a model, its data and its loss. Change all three."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recopt import Task, option


class Template(Task):
    """Tells two interleaved spirals apart."""

    # Options can be set when the task is run: recopt run 'FILE.py(hidden=64)' STACK
    examples = option(600, "number of points, a third of them held out")
    batch_size = option(64, "points in a training batch")
    hidden = option(32, "width of the hidden layer")

    metric = "accuracy"  # the main figure of metrics()

    def model(self) -> nn.Module:
        """A new model: any torch module. Torch's random numbers are seeded from the task's seed."""
        return nn.Sequential(nn.Linear(2, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 2))

    def data(self) -> tuple[Tensor, Tensor]:
        """All points, of shape (N, 2), and their spirals (0 or 1), of shape (N,)."""
        draw = torch.Generator().manual_seed(0)  # not the task's seed, which sets the model and the batches
        label = torch.arange(self.examples) % 2
        turn = 0.5 + 2.0 * torch.rand(self.examples, generator=draw)
        angle = 3.0 * turn + torch.pi * label
        x = torch.stack([turn * angle.cos(), turn * angle.sin()], 1)
        return x + 0.1 * torch.randn(x.shape, generator=draw), label

    def batch(self, index: int, split: str = "train") -> tuple[Tensor, Tensor]:
        """Batch number `index` of a split, the same at every call. Splits are train, valid and test."""
        x, label = self.data()
        held = self.examples // 6
        start = {"valid": 0, "test": held, "train": 2 * held}[split]
        stop = {"valid": held, "test": 2 * held, "train": self.examples}[split]
        rows = torch.arange(start, stop)
        if split == "train":  # drawn by a generator that depends on the seed and the index
            chosen = torch.randint(len(rows), (self.batch_size,), generator=self.generator(index))
            rows = rows[chosen]
        return x[rows], label[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss to minimize: one number, the mean over the batch."""
        x, label = batch
        return nn.functional.cross_entropy(model(x), label)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Other measurements on held-out data."""
        x, label = batch
        return {"accuracy": (model(x).argmax(-1) == label).float().mean()}
