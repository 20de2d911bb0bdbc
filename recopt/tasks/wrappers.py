"""Tasks that wrap other tasks, and how those are written as options: ``mnist(hidden=[40]) + quadratic(dim=20)``."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.task import Batch, Split, Task
from ..levels.notation import parse
from . import get


class Wrapper(Task):
    """A task that passes every call on to another, ``inner``, unless a subclass overrides it.

    Attributes:
        inner: the wrapped task; set by :meth:`wrap`.
    """

    inner: Task

    def wrap(self, inner: Task) -> Self:
        """Wrap ``inner`` from now on. Returns this task."""
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

    def loss_parameters(self) -> nn.Module | None:
        return self.inner.loss_parameters()

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.inner.training_loss(model, batch, parameters)

    def held_out_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.inner.held_out_loss(model, batch, parameters)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.metrics(model, batch)


def members(text: str, where: str) -> list[Task]:
    """The tasks written ``name(option=value, …) + …``, in the notation of stacks.

    Raises:
        RecoptError: for text of another form (naming ``where``), or an unknown task or option.
    """
    layers = parse(text)
    if len(layers) != 1 or "@" in text or any(term.only or term.moves for term in layers[0]):
        raise RecoptError(f"{where} should read like mnist(hidden=[40]) + quadratic, not '{text}'.")
    return [get(term.name)(**term.settings) for term in layers[0]]
