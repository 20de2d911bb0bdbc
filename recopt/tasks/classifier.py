"""Classifiers of images: any data set, any of three small models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.settings import option
from . import models
from .supervised import Examples, Supervised

NORMALIZATIONS = ("unit", "symmetric", "standard")


class Classifier(Supervised):
    """A classifier of images held as uint8 of shape (N, channels, height, width). Subclasses choose the data.

    Class attributes:
        shape: (channels, height, width) of an image.
        classes: the number of classes.
        white: the largest value of a pixel.

    Raises:
        RecoptError: for a width, depth or number of channels that makes no model.
    """

    net = option("mlp", "which model", choices=("logistic", "mlp", "cnn"))
    hidden = option((20,), "widths of the hidden layers of the mlp")
    depth = option(0, "number of hidden layers, the last width repeated; 0: one per width in hidden")
    activation = option("sigmoid", "nonlinearity", choices=tuple(models.ACTIVATIONS))
    channels = option((8, 16), "channels of the convolutions of the cnn")
    init = option("default", "distribution of the initial weights", choices=tuple(models.INITS))
    init_scale = option(1.0, "multiplies the initial weights")
    normalization = option(
        "unit", "pixels in [0, 1], in [-1, 1], or with mean 0 and deviation 1 per channel", choices=NORMALIZATIONS
    )

    shape: ClassVar[tuple[int, int, int]]
    classes: ClassVar[int]
    white: ClassVar[float] = 255.0

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        self._widths = _repeated(_sizes(self.hidden, f"{self._where}.hidden"), self.depth, self._where)
        _sizes(self.channels, f"{self._where}.channels")
        most = min(self.shape[1:]).bit_length() - 1
        if len(self.channels) > most:
            raise RecoptError(
                f"{self._where}.channels has {len(self.channels)} entries, each halving the image; "
                f"images of {self.shape[1]} × {self.shape[2]} allow {most}."
            )

    def model(self) -> nn.Module:
        pixels = self.shape[0] * self.shape[1] * self.shape[2]
        if self.net == "cnn":
            built = models.cnn(self.shape, self.channels, self.classes, self.activation)
        else:
            widths = self._widths if self.net == "mlp" else ()
            built = models.mlp(pixels, widths, self.classes, self.activation)
        return models.initialize(built, self.init, self.init_scale)

    def prepare(self, x: Tensor) -> Tensor:
        x = x.float() / self.white
        if self.normalization == "symmetric":
            return 2 * x - 1
        if self.normalization == "standard":
            mean, deviation = self._standard(x.device)
            return (x - mean) / deviation
        return x

    def _standard(self, device: torch.device) -> tuple[Tensor, ...]:
        kept = self._shared.moments or moments(self.examples("train"), self.white)
        if kept is not self._shared.moments or kept[0].device != device:
            self._shared.moments = tuple(m.to(device) for m in kept)
        return self._shared.moments


def moments(examples: Examples, white: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels per channel, as fractions of ``white``, shapes (channels, 1, 1).

    Exact: computed from counts of the 256 values, so that a large set needs no copy in floats. The
    deviation of a constant channel is given as 1.
    """
    x = examples[0]
    counts = torch.stack([torch.bincount(x[:, c].reshape(-1), minlength=256) for c in range(x.shape[1])]).double()
    values = torch.arange(256, dtype=torch.float64, device=x.device) / white
    share = counts / counts.sum(1, keepdim=True)
    mean = (share * values).sum(1, keepdim=True)
    deviation = (share * (values - mean) ** 2).sum(1, keepdim=True).sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return mean.float()[..., None], deviation.float()[..., None]


def _sizes(sizes: Sequence[Any], where: str) -> tuple[int, ...]:
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise RecoptError(f"{where} must be whole numbers above 0, not {list(sizes)}.")
    return tuple(sizes)


def _repeated(hidden: tuple[int, ...], depth: int, where: str) -> tuple[int, ...]:
    if depth < 0 or (depth and not hidden):
        raise RecoptError(f"{where}.depth must be 0 or more, and 0 where hidden is empty, not {depth}.")
    if depth and depth < len(hidden):
        raise RecoptError(f"{where}.depth is {depth}, but hidden lists {len(hidden)} layers.")
    return hidden + hidden[-1:] * (depth - len(hidden) if depth else 0)
