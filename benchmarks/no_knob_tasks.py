"""The tasks of no_knob.py: small, quick, and of the kinds that people train.

Each is made from a seed of its own, or shipped with a package; a run's seed decides the initial point and the batches.
``CHOSEN_ON`` are those that the default was chosen on; ``HELD_BACK`` were looked at once it was chosen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import files

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformer import Transformer

from recopt.data import load


@dataclass
class Job:
    """One training: networks, each with an optimizer of its own, and their losses.

    Attributes:
        networks: what is trained.
        losses: of each network, the loss on the next batch.
        score: the held-out loss, at the present point.
        measure: the loss on so many of the rows that are kept out (0: all), if any are (:func:`keeping_out`).
    """

    networks: Sequence[nn.Module]
    losses: Sequence[Callable[[], Tensor]]
    score: Callable[[], float]
    measure: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Task:
    """A job to be made from a seed, and how many steps it is trained for."""

    make: Callable[[int], Job]
    steps: int
    settings: dict[str, float] = field(default_factory=dict)


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with ``act`` between them."""
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


_KEPT_OUT: ContextVar[float] = ContextVar("the share of the training rows that is kept out", default=0.0)


@contextmanager
def keeping_out(share: float) -> Iterator[None]:
    """Jobs that are made inside, and have training rows, keep a share of them out, to be measured on."""
    token = _KEPT_OUT.set(share)
    try:
        yield
    finally:
        _KEPT_OUT.reset(token)


def supervised(network: nn.Module, train: Pair, held: Pair, batch: int, loss: Loss, seed: int) -> Job:
    """Batches drawn from ``train``, scored on ``held``."""
    rng = torch.Generator().manual_seed(seed)
    count = int(len(train[0]) * _KEPT_OUT.get())
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(99)) if count else slice(None)
    x, y = train[0][order], train[1][order]
    out, (x, y) = (x[:count], y[:count]), (x[count:], y[count:])

    def step() -> Tensor:
        rows = torch.randint(len(x), (batch,), generator=rng)
        return loss(network(x[rows]), y[rows])

    def on(rows: Pair) -> float:
        network.eval()
        with torch.no_grad():
            found = loss(network(rows[0]), rows[1]).item()
        network.train()
        return found

    draw = torch.Generator().manual_seed(seed + 1)

    def measure(some: int) -> float:
        rows = torch.randint(count, (some,), generator=draw) if some else slice(None)
        return on((out[0][rows], out[1][rows]))

    return Job([network], [step], lambda: on(held), measure if count else None)


def _random(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


@cache
def _classes(rows: int, features: int, noise: float) -> Pair:
    """Three overlapping classes, by a random network of two layers."""
    rng = _random(11)
    x = torch.randn(rows, features, generator=rng)
    a, b = torch.randn(features, 16, generator=rng) / features**0.5, torch.randn(16, 3, generator=rng) / 4
    logits = 6 * torch.tanh(2 * x @ a) @ b
    return x, (logits + noise * torch.randn(logits.shape, generator=rng)).argmax(1)


def small_table(seed: int) -> Job:
    """150 rows that can be learned by heart."""
    x, y = _classes(1150, 12, 2.0)
    network = mlp(12, 64, 64, 3)
    return supervised(network, (x[:150], y[:150]), (x[150:], y[150:]), 32, functional.cross_entropy, seed)


@cache
def _friedman(rows: int) -> Pair:
    rng = _random(12)
    x = torch.rand(rows, 10, generator=rng)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + torch.randn(rows, generator=rng)
    return 2 * x - 1, ((y - y.mean()) / y.std())[:, None]


def table(seed: int) -> Job:
    """Friedman's regression, 4,000 rows with noise."""
    x, y = _friedman(6000)
    network = mlp(10, 64, 64, 1)
    return supervised(network, (x[:4000], y[:4000]), (x[4000:], y[4000:]), 128, functional.mse_loss, seed)


class Factors(nn.Module):
    """Rows and columns of a matrix, as vectors of ``rank`` numbers; (entries, 2) of int64 to (entries,)."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, rank), nn.Embedding(columns, rank)
        nn.init.normal_(self.rows.weight, std=0.1)
        nn.init.normal_(self.columns.weight, std=0.1)

    def forward(self, where: Tensor) -> Tensor:
        """The entries."""
        return (self.rows(where[:, 0]) * self.columns(where[:, 1])).sum(1)


def factorization(seed: int) -> Job:
    """A 300 by 200 matrix of rank 5, of which a fifth is known, with noise."""
    rng = _random(13)
    left, right = torch.randn(300, 5, generator=rng), torch.randn(200, 5, generator=rng)
    every = torch.cartesian_prod(torch.arange(300), torch.arange(200))[torch.randperm(60_000, generator=rng)]
    values = (left[every[:, 0]] * right[every[:, 1]]).sum(1) / 5**0.5
    known = values[:12_000] + 0.3 * torch.randn(12_000, generator=rng)
    train, held = (every[:12_000], known), (every[12_000:20_000], values[12_000:20_000])
    return supervised(Factors(300, 200, 8), train, held, 512, functional.mse_loss, seed)


def poisson(seed: int) -> Job:
    """u″ = f on [0, 1] with u = 0 at both ends: a physics-informed network; scored by the error of u."""
    network, rng = mlp(1, 32, 32, 1, act=nn.Tanh), _random(seed)

    def solution(x: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * x) + 0.3 * torch.sin(6 * math.pi * x)

    def step() -> Tensor:
        x = torch.rand(64, 1, generator=rng).requires_grad_()
        u = network(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        pi = 2 * math.pi
        wanted = -(pi**2) * torch.sin(pi * x) - 0.3 * (3 * pi) ** 2 * torch.sin(3 * pi * x)
        ends = network(torch.tensor([[0.0], [1.0]]))
        return ((curve - wanted) / 40).square().mean() + ends.square().mean()

    def score() -> float:
        x = torch.linspace(0, 1, 200)[:, None]
        with torch.no_grad():
            return (network(x) - solution(x)).square().mean().item() ** 0.5

    return Job([network], [step], score)


def oscillator(seed: int) -> Job:
    """u″ + 0.4 u′ + 16 u = 0 on [0, 2] from u = 1 at rest: likewise."""
    network, rng = mlp(1, 40, 40, 1, act=nn.Tanh), _random(seed)

    def step() -> Tensor:
        t = 2 * torch.rand(64, 1, generator=rng)
        t[0] = 0
        t.requires_grad_()
        u = network(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), t, create_graph=True)
        start = (u[0] - 1).square().sum() + slope[0].square().sum() / 16
        return ((curve + 0.4 * slope + 16 * u) / 16).square().mean() + start

    def score() -> float:
        t, w = torch.linspace(0, 2, 200)[:, None], (16 - 0.04) ** 0.5
        exact = torch.exp(-0.2 * t) * (torch.cos(w * t) + 0.2 / w * torch.sin(w * t))
        with torch.no_grad():
            return (network(t) - exact).square().mean().item() ** 0.5

    return Job([network], [step], score)


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


@cache
def _digits() -> tuple[Pair, Pair]:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=_random(0))
    x = torch.as_tensor(found.data, dtype=torch.float32)[order] / 8 - 1
    y = torch.as_tensor(found.target, dtype=torch.int64)[order]
    return (x[:1077], y[:1077]), (x[1077:], y[1077:])


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


@cache
def _fashion() -> tuple[Pair, Pair]:
    found = load("fashion-mnist")
    train, test = found.train[0][:6000].flatten(1).float() / 255, found.test[0][:4000].flatten(1).float() / 255
    mean, scale = train.mean(), train.std()
    return ((train - mean) / scale, found.train[1][:6000].long()), ((test - mean) / scale, found.test[1][:4000].long())


class Counts(nn.Module):
    """Logistic regression from the numbers of the features that are on; starts at zero; (batch, on) to (batch,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weights, self.bias = nn.Embedding(features, 1), nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.weights.weight)

    def forward(self, on: Tensor) -> Tensor:
        """Logits."""
        return self.weights(on)[:, :, 0].sum(1) + self.bias


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
