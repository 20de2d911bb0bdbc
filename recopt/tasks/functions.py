"""Test functions: tasks whose model is a single point."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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

    dim = option(2, "number of variables", least=1)
    noise = option(0.0, "standard deviation of the noise on each coordinate of the gradient", least=0)

    metric = "distance"
    higher_is_better = False
    minimum: float = 0.0

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


class Rosenbrock(Function):
    """Rosenbrock's curved valley in any dimension, minimum 0 at 1.

    f(x) = Σ_{i<n} 100 (x_{i+1} − x_i²)² + (1 − x_i)² (Rosenbrock 1960; the chained form in n dimensions).
    The start is the usual (−1.2, 1, −1.2, 1, …) plus ``spread`` times a standard normal vector.
    From 4 dimensions on there is a second, local minimum near (−1, 1, …, 1).
    """

    dim = option(2, Function.dim.help, least=2)
    spread = option(0.1, "standard deviation of the start around (-1.2, 1, …)")
    minimum = 1.0

    def value(self, theta: Tensor) -> Tensor:
        head, tail = theta[:-1], theta[1:]
        return (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum()

    def start(self) -> Tensor:
        usual = torch.ones(self.dim)
        usual[::2] = -1.2
        return usual + self.spread * torch.randn(self.dim)


class Rastrigin(Function):
    """Rastrigin's egg-box in any dimension, global minimum 0 at 0.

    f(x) = Σ_i x_i² + a (1 − cos 2πx_i) (Rastrigin 1974, a = 10): a local minimum near every integer point.
    The start is uniform on the usual cube, |x_i| ≤ ``radius`` = 5.12.
    """

    amplitude = option(10.0, "height of the ripples, a; 0 leaves the bowl ‖x‖²")
    radius = option(5.12, "the start is uniform on [-radius, radius] in each coordinate")

    def value(self, theta: Tensor) -> Tensor:
        return (theta**2 + self.amplitude * (1 - torch.cos(2 * math.pi * theta))).sum()

    def start(self) -> Tensor:
        return self.radius * (2 * torch.rand(self.dim) - 1)
