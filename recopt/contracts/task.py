"""The contract of a task: a model, its batches, its loss, and what is measured besides."""

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


class Task:
    """What is trained. Subclasses declare options and implement :meth:`model`, :meth:`batch`, :meth:`loss`.

    A task is a family of itself: :meth:`sample` gives it again with another seed, which means other
    initial parameters and another order of batches; families override it to sample other tasks.

    Everything that tells one task of a family from another belongs into the batch or the model's
    parameters and buffers, so that ``tasks: N`` can map one loss over many. Set ``vectorize = False``
    where the model cannot be mapped (``torch.func.vmap``); they are then looped over.

    Attributes, of the class or of one task:
        vectorize: whether ``loss`` may be mapped over tasks.
        metric: the name in :meth:`metrics` that the run's table shows, and ``higher_is_better`` which way.

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
        """A fresh model. Torch's global generator is seeded from the task's seed by the caller."""
        raise NotImplementedError(f"{type(self).__name__} has no model.")

    def batch(self, index: int, split: Split = "train") -> Batch:
        """Batch ``index`` (0, 1, …, without end) of ``split``: a pure function of the seed and its arguments.

        The run's position in the data is then one integer, and any step can be repeated.
        """
        raise NotImplementedError(f"{type(self).__name__} has no batch.")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch, a 0-dimensional tensor."""
        raise NotImplementedError(f"{type(self).__name__} has no loss.")

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Whatever else is measured on held-out batches (accuracy …), 0-dimensional means over the batch."""
        return {}

    def batches(self, split: Split) -> int:
        """How many batches make one pass over ``split``; held-out figures are their mean."""
        return 1

    def sample(self, seed: int) -> Self:
        """A task of the same family, determined by ``seed``; data that does not change is shared."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def draw(self, seeds: Sequence[int]) -> list[Task]:
        """The tasks that one draw runs side by side, one per seed; their models have the same structure.

        A family whose members differ in structure overrides this so that one draw holds members of one kind.
        """
        return [self.sample(seed) for seed in seeds]

    def to(self, device: torch.device | str) -> Self:
        """This task, its data held on ``device`` from now on where it holds any (shared with its samples)."""
        return self

    def generator(self, *key: int) -> torch.Generator:
        """A CPU generator determined by the task's seed and ``key``, for drawing data or order."""
        mixed = self.seed
        for part in key:
            mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
        return torch.Generator().manual_seed(mixed)
