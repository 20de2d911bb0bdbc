"""Rosenbrock's function."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.settings import option
from .functions import Function


class Rosenbrock(Function):
    """Rosenbrock's curved valley in any dimension, minimum 0 at 1.

    f(x) = Σ_{i<n} 100 (x_{i+1} − x_i²)² + (1 − x_i)² (Rosenbrock 1960; the chained form in n dimensions).
    The start is the usual (−1.2, 1, −1.2, 1, …) plus ``spread`` times a standard normal vector.
    From 4 dimensions on there is a second, local minimum near (−1, 1, …, 1).
    """

    spread = option(0.1, "standard deviation of the start around (-1.2, 1, …)")
    minimum = 1.0
    least = 2

    def value(self, theta: Tensor) -> Tensor:
        head, tail = theta[:-1], theta[1:]
        return (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum()

    def start(self) -> Tensor:
        usual = torch.ones(self.dim)
        usual[::2] = -1.2
        return usual + self.spread * torch.randn(self.dim)
