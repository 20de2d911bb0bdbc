"""The tasks of no_knob.py: small, quick, and of the kinds that people train.

Each is made from a seed of its own, or shipped with a package; a run's seed decides the initial point and the batches.
``CHOSEN_ON`` are those that the default was chosen on; ``HELD_BACK`` were looked at once it was chosen.
"""

from __future__ import annotations

import math
from importlib.metadata import files

import torch
from no_knob_data import _classes, _digits, _fashion, _friedman
from no_knob_equations import oscillator, poisson
from no_knob_jobs import Job, Task, _random, mlp, supervised
from no_knob_networks import Counts, Factors
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformer import Transformer


def small_table(seed: int) -> Job:
    """150 rows that can be learned by heart."""
    x, y = _classes(1150, 12, 2.0)
    network = mlp(12, 64, 64, 3)
    return supervised(network, (x[:150], y[:150]), (x[150:], y[150:]), 32, functional.cross_entropy, seed)


def table(seed: int) -> Job:
    """Friedman's regression, 4,000 rows with noise."""
    x, y = _friedman(6000)
    network = mlp(10, 64, 64, 1)
    return supervised(network, (x[:4000], y[:4000]), (x[4000:], y[4000:]), 128, functional.mse_loss, seed)


def factorization(seed: int) -> Job:
    """A 300 by 200 matrix of rank 5, of which a fifth is known, with noise."""
    rng = _random(13)
    left, right = torch.randn(300, 5, generator=rng), torch.randn(200, 5, generator=rng)
    every = torch.cartesian_prod(torch.arange(300), torch.arange(200))[torch.randperm(60_000, generator=rng)]
    values = (left[every[:, 0]] * right[every[:, 1]]).sum(1) / 5**0.5
    known = values[:12_000] + 0.3 * torch.randn(12_000, generator=rng)
    train, held = (every[:12_000], known), (every[12_000:20_000], values[12_000:20_000])
    return supervised(Factors(300, 200, 8), train, held, 512, functional.mse_loss, seed)


class Forecaster(nn.Module):
    """A GRU that reads a series and says what comes next; (batch, length) to (batch,)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(1, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:
        """The next value."""
        return self.head(self.cell(series[:, :, None])[0][:, -1])[:, 0]


def recurrent(seed: int) -> Job:
    """The next value of a noisy sum of sines, from 20 before it."""
    rng, t = _random(14), torch.arange(2500.0)
    series = (
        torch.sin(0.21 * t)
        + 0.6 * torch.sin(0.083 * t + 1) * torch.sin(0.5 * t)
        + 0.1 * torch.randn(2500, generator=rng)
    )
    windows = series.unfold(0, 21, 1)
    train, held = windows[:1800], windows[1850:]
    pairs = [(w[:, :-1].contiguous(), w[:, -1].contiguous()) for w in (train, held)]
    return supervised(Forecaster(), pairs[0], pairs[1], 32, functional.mse_loss, seed)


CONTEXT = 32


def text(seed: int) -> Job:
    """The characters of NumPy's licences, in rows of 32; every fifth row is held out."""
    paths = [f for f in files("numpy") or [] if f.name.startswith("LICENSE") and ".dist-info" in str(f)]
    content = "\n".join(f.read_text(encoding="utf-8") for f in sorted(paths, key=str))
    index = {c: i for i, c in enumerate(sorted(set(content)))}
    rows = torch.tensor([index[c] for c in content]).unfold(0, CONTEXT + 1, CONTEXT)
    held = torch.arange(len(rows)) % 5 == 4
    pairs = [(r[:, :-1].contiguous(), r[:, 1:].contiguous()) for r in (rows[~held], rows[held])]

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(logits, wanted.flatten())

    return supervised(Transformer(len(index), CONTEXT, width=48, layers=1), pairs[0], pairs[1], 16, loss, seed)


def on_digits(network: nn.Module, seed: int) -> Job:
    """scikit-learn's digits, as classes."""
    return supervised(network, *_digits(), 64, functional.cross_entropy, seed)


def autoencoder(seed: int) -> Job:
    """The digits through a waist of 8."""
    train, held = ((x, x) for x, _ in _digits())
    return supervised(mlp(64, 64, 8, 64, 64), train, held, 64, functional.mse_loss, seed)


def convolution(seed: int) -> Job:
    """Two convolutions with BatchNorm on the digits."""
    network = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(96, 10),
    )  # fmt: skip
    return on_digits(network, seed)


def fashion(seed: int) -> Job:
    """Fashion-MNIST, 6,000 images to train; a network of two layers."""
    pairs = _fashion()
    return supervised(mlp(784, 128, 10), *pairs, 128, functional.cross_entropy, seed)


def sparse(seed: int) -> Job:
    """3,000 features of which each row has 15, drawn with falling frequency."""
    rng = _random(15)
    odds = 1 / torch.arange(1, 3001).float() ** 0.8
    on = torch.multinomial(odds.expand(8000, 3000), 15, generator=rng)
    truth = torch.randn(3000, generator=rng)
    y = (torch.sigmoid(1.2 * truth[on].sum(1)) > torch.rand(8000, generator=rng)).float()
    train, held = (on[:5000], y[:5000]), (on[5000:], y[5000:])
    return supervised(Counts(3000), train, held, 64, functional.binary_cross_entropy_with_logits, seed)


def quadratic(seed: int) -> Job:
    """Linear regression of 10 features whose variances span 10⁴, batches of 32 with noise."""
    rng = _random(16)
    x = torch.randn(4000, 10, generator=rng) * torch.logspace(-2, 0, 10)
    truth = torch.randn(10, 1, generator=rng) / torch.logspace(-2, 0, 10)[:, None]
    y = x @ truth + 0.3 * torch.randn(4000, 1, generator=rng)
    return supervised(nn.Linear(10, 1), (x[:2000], y[:2000]), (x[2000:], y[2000:]), 32, functional.mse_loss, seed)


def smooth(seed: int) -> Job:
    """A smooth function of two variables, without noise."""
    x = 2 * torch.rand(3000, 2, generator=_random(17)) - 1
    y = torch.sin(4 * x[:, :1]) * torch.cos(3 * x[:, 1:]) + 0.5 * x[:, :1] * x[:, 1:]
    network = mlp(2, 48, 48, 1, act=nn.Tanh)
    return supervised(network, (x[:2000], y[:2000]), (x[2000:], y[2000:]), 64, functional.mse_loss, seed)


def gan(seed: int, centres: Tensor, spread: float) -> Job:
    """Points about ``centres``, made by a network against another; scored by the energy distance of 2,000 points."""
    made, told, rng = mlp(8, 64, 64, 2), mlp(2, 64, 64, 1), _random(seed)

    def real(n: int, rng: Generator) -> Tensor:
        which = torch.randint(len(centres), (n,), generator=rng)
        return centres[which] + spread * torch.randn(n, 2, generator=rng)

    def judge() -> Tensor:
        with torch.no_grad():
            false = made(torch.randn(64, 8, generator=rng))
        logits = told(torch.cat([real(64, rng), false]))[:, 0]
        return functional.binary_cross_entropy_with_logits(logits, (torch.arange(128) < 64).float())

    def make() -> Tensor:
        logits = told(made(torch.randn(64, 8, generator=rng)))[:, 0]
        return functional.softplus(-logits).mean()

    def score() -> float:
        a, fixed = real(2000, fixed_rng := _random(99)), fixed_rng
        with torch.no_grad():
            b = made(torch.randn(2000, 8, generator=fixed))
        if not bool(torch.isfinite(b).all()):
            return math.inf
        return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()

    return Job([told, made], [judge, make], score)


def ring(seed: int) -> Job:
    """Eight Gaussians on a circle."""
    angles = torch.arange(8) * (math.pi / 4)
    return gan(seed, torch.stack([angles.cos(), angles.sin()], 1), 0.05)


def lattice(seed: int) -> Job:
    """Nine Gaussians on a grid."""
    places = torch.tensor([-1.0, 0.0, 1.0])
    return gan(seed, torch.cartesian_prod(places, places), 0.05)


CHOSEN_ON: dict[str, Task] = {
    "small table": Task(small_table, 600),
    "factorization": Task(factorization, 1000),
    "poisson": Task(poisson, 1000),
    "text": Task(text, 500),
    "deep": Task(lambda seed: on_digits(mlp(64, *[48] * 9, 10), seed), 500),
    "sparse": Task(sparse, 1000),
    "digits": Task(lambda seed: on_digits(mlp(64, 64, 10, act=nn.Tanh), seed), 400),
    "quadratic": Task(quadratic, 1000),
    "lattice": Task(lattice, 1500),
}
HELD_BACK: dict[str, Task] = {
    "table": Task(table, 1500),
    "oscillator": Task(oscillator, 800),
    "recurrent": Task(recurrent, 400),
    "autoencoder": Task(autoencoder, 1000),
    "convolution": Task(convolution, 300),
    "fashion": Task(fashion, 600),
    "smooth": Task(smooth, 2000),
    "ring": Task(ring, 1500),
}
TASKS = CHOSEN_ON | HELD_BACK
