"""Regression of sine waves from a few points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Split, Task
from .models import mlp

POINTS = 100
"""Points on which a wave is measured."""
_PLACES = {"train": 1, "valid": 2, "test": 3}


class Sinusoid(Task):
    """A sine wave to be learned from a few points: the regression of MAML (Finn et al. 2017, 1703.03400, sect. 5.1).

    Each task of the family is a wave with an amplitude uniform in [0.1, 5] and a phase uniform in [0, π], at x uniform
    in [−5, 5]. The training batch is the same ``shots`` points at every step; as many others are held out.

    Raises:
        RecoptError: for less than one point or hidden unit.
    """

    shots = option(10, "points that a wave is learned from")
    hidden = option((40, 40), "widths of the hidden layers")

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        if self.shots < 1 or not all(isinstance(n, int) and n > 0 for n in self.hidden):
            raise RecoptError("sinusoid.shots and the widths in sinusoid.hidden must be 1 or more.")

    def model(self) -> nn.Module:
        return mlp(1, self.hidden, 1, "relu")

    def batch(self, index: int, split: Split = "train") -> Batch:
        """(x, y), each of shape (B, 1)."""
        height, phase = torch.rand(2, generator=self.generator(0)).tolist()
        count = POINTS if split == "test" else self.shots
        x = 10 * torch.rand(count, 1, generator=self.generator(_PLACES[split])) - 5
        return x, (0.1 + 4.9 * height) * torch.sin(x - math.pi * phase)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        found: Tensor = ((model(x) - y) ** 2).mean()
        return found
