"""The base of tasks that are made of another one."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..contracts.task import Batch, Split, Task


class Outer(Task):
    """A task that is another one, its ``inner``, but for what a subclass does to it.

    Attributes:
        inner: the task underneath; set by :meth:`wrap`.
    """

    inner: Task

    def wrap(self, inner: Task) -> Self:
        """Be ``inner`` from now on, to all that is not overridden; this task itself."""
        self.inner = inner
        self.vectorize, self.metric, self.higher_is_better = inner.vectorize, inner.metric, inner.higher_is_better
        return self

    def to(self, device: torch.device | str) -> Self:
        self.inner.to(device)
        return self

    def model(self) -> nn.Module:
        return self.inner.model()

    def batch(self, index: int, split: Split = "train") -> Batch:
        return self.inner.batch(index, split)

    def batches(self, split: Split) -> int:
        return self.inner.batches(split)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.inner.loss(model, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.metrics(model, batch)
