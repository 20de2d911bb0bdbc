"""The tasks of dropin_peers.py: real images and text, for networks that train in seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import files

import torch
from torch import Tensor, nn
from transformer import Transformer

from recopt.data import load

CONTEXT = 32  # characters that the transformer sees


@dataclass(frozen=True)
class Work:
    """A task: what is trained on what. Held-out data is (inputs, targets), validation first."""

    build: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    held_out: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    batch: int
    steps: int
    by_loss: bool = False


def halves(inputs: Tensor, targets: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Even rows to choose by, odd rows to report."""
    return (inputs[::2], targets[::2]), (inputs[1::2], targets[1::2])


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Linear layers with ``act`` between them."""
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


def digits(cnn: bool = False) -> Work:
    """scikit-learn's digits: 1,077 to train, 360 + 360 held out. MLP 64-64-10, or two convolutions."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(found.data, dtype=torch.float32)[order] / 8 - 1
    y = torch.as_tensor(found.target, dtype=torch.int64)[order]

    def convolutions() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip

    build, steps = (convolutions, 8 * 17) if cnn else (lambda: mlp(64, 64, 10), 30 * 17)
    return Work(build, x[:1077], y[:1077], halves(x[1077:], y[1077:]), 64, steps)


def images(name: str, widths: tuple[int, ...], act: type[nn.Module], limit: int, epochs: int) -> Work:
    """The first ``limit`` training images of a set, standardized by their own figures; its test images held out."""
    found = load(name)
    train = found.train[0][:limit].flatten(1).float() / 255
    mean, scale = train.mean(), train.std()
    test = (found.test[0].flatten(1).float() / 255 - mean) / scale
    return Work(lambda: mlp(*widths, act=act), (train - mean) / scale, found.train[1][:limit].long(),
                halves(test, found.test[1].long()), 256, epochs * math.ceil(limit / 256))  # fmt: skip


def text() -> Work:
    """NumPy's licence files as characters, cut into rows of 32; every fifth row is held out."""
    paths = [f for f in files("numpy") or [] if f.name.startswith("LICENSE") and ".dist-info" in str(f)]
    content = "\n".join(f.read_text(encoding="utf-8") for f in sorted(paths, key=str))
    index = {c: i for i, c in enumerate(sorted(set(content)))}
    codes = torch.tensor([index[c] for c in content])
    rows = codes.unfold(0, CONTEXT + 1, CONTEXT)
    held = torch.arange(len(rows)) % 5 == 4
    train, rest = rows[~held], rows[held]

    def make() -> nn.Module:
        return Transformer(len(index), CONTEXT, width=48, layers=2)

    return Work(make, train[:, :-1], train[:, 1:], halves(rest[:, :-1], rest[:, 1:]),
                16, 300, by_loss=True)  # fmt: skip


TASKS: dict[str, Callable[[], Work]] = {  # cheapest first
    "digits": digits,
    "fashion": lambda: images("fashion-mnist", (784, 256, 128, 10), nn.ReLU, 12_000, 2),
    "cnn": lambda: digits(cnn=True),
    "mnist": lambda: images("mnist", (784, 128, 10), nn.Tanh, 60_000, 1),
    "text": text,
}
