"""Random least-squares problems."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Split, Task
from .functions import Point


class Quadratic(Task):
    """Random least squares, f(θ) = ‖Wθ − y‖², W and y standard normal.

    The family of Andrychowicz et al. 2016 (1606.04474, §3.1): W is dim × dim, y has dim entries, θ starts
    at 0, and f is the *sum* of the squared residuals, neither halved nor divided by dim. The seed draws
    W and y; every split and index has the same function. The minimum is 0 (W is regular almost surely).

    With ``conditioning`` c ≥ 1, W has random singular vectors instead, and singular values from s to s/c,
    evenly spaced in their logarithm: the Hessian 2WᵀW has condition number c². s is such that ‖W‖² is
    dim², the mean for a normal W.
    """

    dim = option(10, "number of variables", least=1)
    conditioning = option(0.0, "condition number of W; 0 leaves W standard normal")
    start = option("zero", "initial θ: 0, or standard normal", choices=("zero", "normal"))

    def __init__(self, *, seed: int = 0, **options: object) -> None:
        super().__init__(seed=seed, **options)
        if self.conditioning != 0 and self.conditioning < 1:
            raise RecoptError(f"quadratic.conditioning must be 0 or at least 1, not {self.conditioning:g}.")
        self._drawn: tuple[int, Tensor, Tensor] | None = None

    def model(self) -> nn.Module:
        return Point(torch.zeros(self.dim) if self.start == "zero" else torch.randn(self.dim))

    def batch(self, index: int, split: Split = "train") -> Batch:
        """(W, y) of shapes (dim, dim) and (dim,): the same for every index and split."""
        if self._drawn is None or self._drawn[0] != self.seed:
            self._drawn = (self.seed, *self._draw())
        return self._drawn[1:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        matrix, target = batch
        residual: Tensor = matrix @ model() - target
        return (residual**2).sum()

    def _draw(self) -> tuple[Tensor, Tensor]:
        generator = self.generator(0)
        matrix = torch.randn(self.dim, self.dim, generator=generator)
        target = torch.randn(self.dim, generator=generator)
        if self.conditioning:
            # In float64, so that large condition numbers are exact too.
            left, _, right = torch.linalg.svd(matrix.double())
            spread = torch.logspace(0, -1, self.dim, base=self.conditioning, dtype=torch.float64)
            matrix = (left * (spread * self.dim / spread.norm()) @ right).float()
        return matrix, target
