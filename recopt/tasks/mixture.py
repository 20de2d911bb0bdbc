"""A family of families."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..declare import option
from ..errors import RecoptError
from ..task import Batch, Split, Task
from .members import members


class Mixture(Task):
    """A weighted mixture of other tasks; each draw is of one of them.

    ``members`` is written like ``mnist(hidden=[40]) + quadratic``, and ``weights`` has a number for each.
    The seed draws the member and is the member's seed. One draw of several tasks side by side
    (:meth:`draw`) is of one member, so that their models have one structure and can be mapped over.

    Limits: members are shipped tasks, by name; a strategy that learns from them must not depend on how many
    parameters there are.
    """

    members = option("quadratic + rosenbrock", "the tasks, like mnist + quadratic(dim=20)")
    weights = option((), "how often each is drawn, relative to the others; none: all equally")

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        self._members = members(self.members, "mixture.members")
        self._weights = torch.tensor(_checked(self.weights, len(self._members)), dtype=torch.float64)
        self._at(seed)

    @property
    def member(self) -> Task:
        """The task that this one is."""
        return self._member

    def sample(self, seed: int) -> Self:
        other = copy.copy(self)
        other._at(seed)
        return other

    def draw(self, seeds: Sequence[int]) -> list[Task]:
        chosen = self.sample(seeds[0]).member
        return [task for seed in seeds for task in chosen.draw([seed])]

    def to(self, device: torch.device | str) -> Self:
        for task in self._members:
            task.to(device)
        return self

    def model(self) -> nn.Module:
        return self.member.model()

    def batch(self, index: int, split: Split = "train") -> Batch:
        return self.member.batch(index, split)

    def batches(self, split: Split) -> int:
        return self.member.batches(split)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.member.loss(model, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.member.metrics(model, batch)

    def _at(self, seed: int) -> None:
        self.seed = seed
        chosen = int(torch.multinomial(self._weights, 1, generator=self.generator(0)))
        self._member = self._members[chosen].sample(seed)
        self.vectorize, self.metric = self._member.vectorize, self._member.metric
        self.higher_is_better = self._member.higher_is_better


def _checked(weights: Sequence[Any], count: int) -> Sequence[float]:
    good = all(isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < math.inf for w in weights)
    if weights and not (good and len(weights) == count and sum(weights) > 0):
        raise RecoptError(f"mixture.weights must be {count} numbers of 0 or more, not all 0, not {list(weights)}.")
    return weights or (1.0,) * count
