"""Small classifiers: logistic regression, multilayer perceptron, convolutional network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}
INITS: dict[str, Callable[[Tensor], object]] = {
    "default": lambda weight: weight,
    "normal": partial(nn.init.normal_, std=0.01),
    "xavier": nn.init.xavier_normal_,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}
"""Distributions of initial weights, drawn in place; the default keeps torch's."""


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: str) -> nn.Sequential:
    """Flatten, then linear layers of the widths ``hidden`` with ``activation`` between them; returns logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [inputs, *hidden]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def cnn(shape: Sequence[int], channels: Sequence[int], outputs: int, activation: str) -> nn.Sequential:
    """3 × 3 convolutions with BatchNorm, ``activation`` and average pooling, then one linear layer; returns logits.

    Average pooling, as it can be mapped over tasks and has the second derivative that an unroll needs.
    The convolutions have no bias, since BatchNorm would cancel it.

    Args:
        shape: (channels, height, width) of an image; halved (rounding down) after each convolution, so
            height and width must be at least 2 to the number of ``channels``.
    """
    layers: list[nn.Module] = []
    before, height, width = shape
    for after in channels:
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), ACTIVATIONS[activation](), nn.AvgPool2d(2)]
        before, height, width = after, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * height * width, outputs))


@torch.no_grad()
def initialize(model: nn.Module, init: str, scale: float) -> nn.Module:
    """Redraw the weights of ``model``'s linear and convolution layers, in place, from the global generator.

    Args:
        init: ``default`` keeps torch's; ``normal`` is N(0, 0.01²) for weights and biases (Andrychowicz et
            al. 2016); ``xavier`` is N(0, 2 / (in + out)), ``he`` N(0, 2 / in), biases 0.
        scale: multiplies the weights and biases, whatever ``init`` is.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        INITS[init](layer.weight)
        layer.weight.mul_(scale)
        if layer.bias is not None:
            if init == "normal":
                layer.bias.normal_(0, 0.01)
            elif init != "default":
                layer.bias.zero_()
            layer.bias.mul_(scale)
    return model
