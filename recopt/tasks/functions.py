"""Test functions: the base of tasks whose model is a single point."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contracts.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Split, Task


class Point(nn.Module):
    """A model that is one vector, ``theta``; called without arguments, it returns that vector."""

    theta: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start)

    def forward(self) -> Tensor:
        return self.theta


class Function(Task):
    """A function of ``dim`` variables. Subclasses implement :meth:`value` and :meth:`start`, and set ``minimum``.

    A batch is one vector e of ``dim`` numbers, and the loss is value(θ) + e·θ, so that e is added to the
    gradient. With ``noise``, each training batch draws e from N(0, noise²). Otherwise, and on held-out
    splits, e is 0.

    Attributes:
        minimum: the value of every coordinate of the global minimizer, where the function is 0.
    """

    dim = option(2, "number of variables")
    noise = option(0.0, "standard deviation of the noise on each coordinate of the gradient")

    metric = "distance"
    higher_is_better = False
    minimum: float = 0.0
    least: int = 1

    def __init__(self, *, seed: int = 0, **options: object) -> None:
        super().__init__(seed=seed, **options)
        where = type(self).__name__.lower()
        if self.dim < self.least:
            raise RecoptError(f"{where}.dim must be at least {self.least}, not {self.dim}.")
        if self.noise < 0:
            raise RecoptError(f"{where}.noise must be 0 or more, not {self.noise:g}.")

    def value(self, theta: Tensor) -> Tensor:
        """The function at ``theta`` (dim numbers), 0-dimensional."""
        raise NotImplementedError(f"{type(self).__name__} has no value.")

    def start(self) -> Tensor:
        """The starting point (dim numbers), drawn from torch's global generator."""
        raise NotImplementedError(f"{type(self).__name__} has no start.")

    def model(self) -> nn.Module:
        return Point(self.start())

    def batch(self, index: int, split: Split = "train") -> Batch:
        if split != "train" or self.noise == 0:
            return torch.zeros(self.dim)
        return self.noise * torch.randn(self.dim, generator=self.generator(index))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        theta, tilt = model(), batch
        total: Tensor = self.value(theta) + tilt @ theta
        return total

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``distance``: the Euclidean distance to the global minimizer."""
        return {"distance": (model() - self.minimum).norm()}
