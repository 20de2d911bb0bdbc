"""A family of tasks that mixes other families."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Task
from .rescaled import Rescaled
from .wrappers import Wrapper, members


class Mixture(Wrapper):
    """A weighted mixture of other tasks; each draw is of one of them.

    ``members`` is written like ``mnist(hidden=[40]) + quadratic``, and ``weights`` has a number for each;
    ``inner`` is the one that this task is.
    The seed chooses the member and seeds it. :meth:`draw` takes all its tasks from one member, so that
    their models have the same structure and can be mapped over.

    Limits: members are shipped tasks, by name. A strategy that learns from them must not depend on the
    number of parameters. :meth:`loss` must be given the member's own kind of model.

    Raises:
        RecoptError: if a member is written wrongly, the weights do not fit, or :meth:`loss` or
            :meth:`metrics` get a model that is built of other modules than the member's.
    """

    members = option("quadratic + rosenbrock", "the tasks, like mnist + quadratic(dim=20)")
    weights = option((), "relative frequency of each task; none: all equal")

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        self._members = members(self.members, "mixture.members")
        self._weights = torch.tensor(_checked(self.weights, len(self._members)), dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            # A nested mixture has no fixed structure; it checks its own models.
            self._structures = [() if _varies(task) else _structure(task.model()) for task in self._members]
        self._choose()

    def sample(self, seed: int) -> Self:
        other = super().sample(seed)
        other._choose()
        return other

    def draw(self, seeds: Sequence[int]) -> list[Task]:
        return self.sample(seeds[0]).inner.draw(seeds)

    def to(self, device: torch.device | str) -> Self:
        for task in self._members:
            task.to(device)
        return self

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._check(model)
        return super().loss(model, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self._check(model)
        return super().metrics(model, batch)

    def _check(self, model: Any) -> None:
        if not isinstance(model, nn.Module):  # a function of the batch: there is nothing to compare
            return
        # Another member's model, of the same shapes, would give a wrong loss without an error.
        wanted = self._structures[self._chosen]
        if wanted and _structure(model) != wanted:
            raise RecoptError(
                f"A member of mixture ({type(self.inner).__name__}) got the model of another: "
                "members of different structure cannot share one model."
            )

    def _choose(self) -> None:
        # The key makes the draw of a nested mixture independent of this one.
        dice = self.generator(zlib.crc32(self.members.encode()))
        self._chosen = int(torch.multinomial(self._weights, 1, generator=dice))
        self.wrap(self._members[self._chosen].sample(self.seed))


def _structure(model: nn.Module) -> tuple[str, ...]:
    """The types of the model's modules, whether it is patched by ``higher``, rescaled or neither."""
    model = getattr(model, "_hidden", (model,))[0]
    return tuple(getattr(module, "_wrapped_name", type(module).__name__) for module in model.modules())


def _varies(task: Task) -> bool:
    return isinstance(task, Mixture) or (isinstance(task, Rescaled) and _varies(task.inner))


def _checked(weights: Sequence[Any], count: int) -> Sequence[float]:
    good = all(isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < math.inf for w in weights)
    if weights and not (good and len(weights) == count and sum(weights) > 0):
        raise RecoptError(f"mixture.weights must be {count} numbers of 0 or more, not all 0, not {list(weights)}.")
    return weights or (1.0,) * count
