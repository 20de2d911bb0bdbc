"""Rastrigin's function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contracts.settings import option
from .functions import Function


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
