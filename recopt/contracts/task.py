"""The contract of a task: a model, its batches, its loss and its metrics."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from .settings import parse_options, plain_name

Batch = Any
"""A tensor, or a tuple, list or dict of them."""
Split = Literal["train", "valid", "test"]


class Losses:
    """The losses and metrics of a task."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch, a 0-dimensional tensor."""
        raise NotImplementedError(f"{type(self).__name__} has no loss.")

    def loss_parameters(self) -> nn.Module | None:
        """Parameters of the loss or the data (weights of examples, penalties), fresh, for levels to move."""
        return None

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        """The loss on training batches where the task has :meth:`loss_parameters`, which it reads at present values."""
        return self.loss(model, batch)

    def held_out_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        """The loss by which ``on: valid`` scores levels of such a task; by default it does without the parameters."""
        return self.loss(model, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Metrics on held-out batches (accuracy …) by name: 0-dimensional means over the batch."""
        return {}


class Task(Losses):
    """A model, its data and its loss. Subclasses declare options and implement ``model``, ``batch`` and ``loss``.

    By default a task is its own family: :meth:`sample` returns it with another seed, hence with other
    initial parameters and another order of batches. Families override it to sample other tasks.

    All that differs between the tasks of a family belongs in the batch or in the model's parameters and
    buffers, so that ``tasks: N`` can map one loss over many tasks (``torch.func.vmap``). Set
    ``vectorize = False`` if the model cannot be mapped; the tasks then run in a loop.

    Attributes, of the class or of one task:
        vectorize: True if ``loss`` may be mapped over tasks.
        metric: the name in :meth:`metrics` that the run's table shows.
        higher_is_better: True if a larger metric is better.

    Raises:
        RecoptError: for an unknown option, or a value of the wrong type.
    """

    vectorize: bool = True
    metric: str | None = None
    higher_is_better: bool = True

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        self.seed = seed
        self._options = parse_options(type(self), options, plain_name(type(self)))

    def model(self) -> nn.Module:
        """A fresh model. The caller seeds torch's global generator from the task's seed."""
        raise NotImplementedError(f"{type(self).__name__} has no model.")

    def batch(self, index: int, split: Split = "train") -> Batch:
        """Batch ``index`` (0, 1, …, without end) of ``split``: a pure function of the seed and its arguments.

        The run's position in the data is then one integer, and any step can be repeated.
        """
        raise NotImplementedError(f"{type(self).__name__} has no batch.")

    def batches(self, split: Split) -> int:
        """The number of batches in one pass over ``split``; held-out losses and metrics are means over them."""
        return 1

    def sample(self, seed: int) -> Self:
        """A task of the same family, determined by ``seed``; data that does not change is shared."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def draw(self, seeds: Sequence[int]) -> list[Task]:
        """The tasks of one draw, one per seed, which run side by side; their models have the same structure.

        A family with members of different structure overrides this, so that each draw holds members of one kind.
        """
        return [self.sample(seed) for seed in seeds]

    def to(self, device: torch.device | str) -> Self:
        """This task, with any data that it holds moved to ``device``, also for its samples."""
        return self

    def generator(self, *key: int) -> torch.Generator:
        """A CPU generator determined by the task's seed and ``key``, for drawing data or order."""
        mixed = self.seed
        for part in key:
            mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
        return torch.Generator().manual_seed(mixed)
