"""Functions of the kind that optimizers without gradients are compared on, shifted and rotated at random."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..contracts.settings import option
from ..contracts.task import Batch, Split, Task
from .functions import Point


def _powers(z: Tensor, least: float, most: float) -> Tensor:
    """As many numbers as ``z`` has, evenly spaced from ``least`` to ``most``."""
    return torch.linspace(least, most, len(z), dtype=z.dtype, device=z.device)


def _rosenbrock(z: Tensor) -> Tensor:
    x = z + 1
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def _rastrigin(z: Tensor) -> Tensor:
    return (z * z + 10 * (1 - torch.cos(2 * math.pi * z))).sum()


def _griewank(z: Tensor) -> Tensor:
    x = 10 * z
    index = torch.arange(1, len(z) + 1, dtype=z.dtype, device=z.device)
    return (x * x).sum() / 4000 - torch.cos(x / index.sqrt()).prod() + 1


def _ackley(z: Tensor) -> Tensor:
    hills = torch.cos(2 * math.pi * z).mean().exp()
    return 20 - 20 * (-0.2 * (z * z).mean().sqrt()).exp() + math.e - hills


def _steps(z: Tensor) -> Tensor:
    flat = torch.where(z.abs() > 0.5, (z + 0.5).floor(), (10 * z + 0.5).floor() / 10)
    return 0.1 * torch.maximum(z[0].abs() / 1e4, (10 ** _powers(z, 0, 2) * flat * flat).sum())


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "rastrigin": _rastrigin,
    "rosenbrock": _rosenbrock,
    "ellipsoid": lambda z: (10 ** _powers(z, 0, 6) * z * z).sum(),
    "discus": lambda z: 1e6 * z[0] ** 2 + (z[1:] ** 2).sum(),
    "cigar": lambda z: z[0] ** 2 + 1e6 * (z[1:] ** 2).sum(),
    "ridge": lambda z: z[0] ** 2 + 100 * (z[1:] ** 2).sum().sqrt(),
    "powers": lambda z: (z.abs() ** _powers(z, 2, 6)).sum().sqrt(),
    "steps": _steps,
    "griewank": _griewank,
    "ackley": _ackley,
}
"""The functions by name, 0 at their only global minimum, which is 0."""


class Landscape(Task):
    """One of ten functions of the BBOB kind, shifted and rotated at random: f(R (θ − θ*)), least 0 at θ*.

    After the functions 2 to 18 of Hansen et al. 2009 ("Real-parameter black-box optimization benchmarking"), without
    their oscillations and asymmetries; ``ackley`` and ``griewank`` are the usual ones (Ackley 1987, Griewank 1981). The
    seed draws θ*, uniform on the cube of ±4 (``rosenbrock``: ±3), and R, orthogonal and Haar-distributed; every split
    and index has the same function. The start is uniform on the cube of ±5.
    """

    function = option("rastrigin", "which one", choices=tuple(FUNCTIONS))
    dim = option(10, "number of variables", least=2)
    rotated = option(True, "whether there is a rotation R, or the coordinates are those of the formula")

    metric = "distance"
    higher_is_better = False

    def __init__(self, *, seed: int = 0, **options: object) -> None:
        super().__init__(seed=seed, **options)
        self._drawn: tuple[int, Tensor, Tensor] | None = None

    def model(self) -> nn.Module:
        return Point(10 * torch.rand(self.dim) - 5)

    def batch(self, index: int, split: Split = "train") -> Batch:
        """(θ*, R) of shapes (dim,) and (dim, dim): the same for every index and split."""
        if self._drawn is None or self._drawn[0] != self.seed:
            self._drawn = (self.seed, *self._draw())
        return self._drawn[1:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        least, turn = batch
        return FUNCTIONS[self.function](turn @ (model() - least))

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``distance``: the Euclidean distance to the minimizer."""
        return {"distance": (model() - batch[0]).norm()}

    def _draw(self) -> tuple[Tensor, Tensor]:
        generator = self.generator(0)
        reach = 3 if self.function == "rosenbrock" else 4
        least = reach * (2 * torch.rand(self.dim, generator=generator, dtype=torch.float64) - 1)
        if not self.rotated:
            return least, torch.eye(self.dim, dtype=torch.float64)
        turn, r = torch.linalg.qr(torch.randn(self.dim, self.dim, generator=generator, dtype=torch.float64))
        return least, turn * r.diagonal().sign()
