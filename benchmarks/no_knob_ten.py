"""Twice eleven tasks of ten kinds that people train, made when the default was finished.

The second eleven were made after all changes to which the first had led. Both are of the kinds that the default is
judged by: tables (few rows and thousands), matrix factorization, a network fitted to an equation, forecasts by a
recurrent network, characters by a transformer, an autoencoder, a deep network without normalization, convolutions with
BatchNorm, linear models of sparse data, two networks against each other.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module

import torch
from no_knob_data import _digits, asked, boxes, images, smaller, split, standard, words
from no_knob_equations import physics, slopes
from no_knob_fresh import characters, compressed, conv, forecast, in_a_row, on_images
from no_knob_jobs import BINARY, CROSS, SQUARE, Job, Task, _random, mlp, supervised
from no_knob_networks import Counts, Tastes, Words
from no_knob_tasks import gan
from torch import Tensor, nn


def impedance(seed: int) -> Job:
    """Friedman's second regression, 4,000 rows with noise."""
    found = import_module("sklearn.datasets").make_friedman2(6000, noise=0.0, random_state=81)
    x, y = (torch.as_tensor(t).float() for t in found)
    y = standard(y[:, None]) + 0.3 * torch.randn(6000, 1, generator=_random(82))
    return supervised(mlp(4, 64, 64, 1), *split(standard(x), y, 4000), 128, SQUARE, seed)


def tastes(seed: int) -> Job:
    """Scores of items by users, 40 a user, with noise, by factors and biases."""
    where, scores = asked(20_000, 400, 300, 1, 83)
    noisy = scores[:, 0] + 0.4 * torch.randn(20_000, generator=_random(84))
    return supervised(Tastes(400, 300, 8), *split(where, noisy, 16_000), 256, SQUARE, seed)


def advection(seed: int) -> Job:
    """u_t + u_x = 0 on [0, 1]², from sin(2πx) with as much at both ends: a wave that travels round once."""

    def solution(at: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * (at[:, :1] - at[:, 1:]))

    def residual(network: nn.Module, rng: torch.Generator) -> Tensor:
        at, first, ends = torch.rand(3, 96, 2, generator=rng)
        at.requires_grad_()
        first[:, 1], ends[:, 0] = 0, 0
        other = ends + torch.tensor([1.0, 0.0])
        inside = slopes(network(at), at).sum(1).square().mean()
        return inside + 4 * SQUARE(network(first), solution(first)) + 4 * SQUARE(network(ends), network(other))

    where = torch.rand(500, 2, generator=_random(85))
    return physics(mlp(2, 32, 32, 32, 1, act=nn.Tanh), residual, (where, solution(where)), seed)


@cache
def lorenz(rows: int) -> Tensor:
    """The first coordinate of a chaotic flow (Lorenz 1963), every 0.1, with noise."""
    x, y, z, values = 1.0, 1.0, 20.0, []
    for _ in range(20 * rows):
        x, y, z = x + 0.05 * (y - x), y + 0.005 * (x * (28 - z) - y), z + 0.005 * (x * y - 8 / 3 * z)
        values.append(x)
    return torch.tensor(values[::20]) + 0.3 * torch.randn(rows, generator=_random(86))


def sparse(seed: int, features: int, each: int, rows: int, power: float, scale: float, draw: int) -> Job:
    """Logistic regression from zero on rows of ``each`` features, drawn with falling frequency; 3,000 are held out."""
    rng = _random(draw)
    odds = 1 / torch.arange(1.0, features + 1) ** power
    on = torch.multinomial(odds.expand(rows + 3000, features), each, generator=rng)
    truth = torch.randn(features, generator=rng)
    y = (torch.sigmoid(scale * truth[on].sum(1)) > torch.rand(rows + 3000, generator=rng)).float()
    return supervised(Counts(features), *split(on, y, rows), 64, BINARY, seed)


def cross(seed: int) -> Job:
    """Nine Gaussians on two lines that cross."""
    places = torch.tensor([[x, y] for x in range(-2, 3) for y in range(-2, 3) if not x * y])
    return gan(seed, 0.6 * places, 0.05)


TEN: dict[str, Task] = {
    "few rows": Task(
        lambda s: supervised(mlp(12, 64, 64, 2), *split(*boxes(2250, 12, 0.1, 88), 250), 32, CROSS, s), 600
    ),
    "impedance": Task(impedance, 1500),
    "tastes": Task(tastes, 1200),
    "advection": Task(advection, 1000),
    "lorenz": Task(lambda s: forecast(nn.LSTM, 32, lorenz(1800), 16, 2, s), 600),
    "json": Task(lambda s: characters(s, ("json.encoder", "json.decoder", "csv"), 32, 48, 2, None), 400),
    "colours": Task(
        lambda s: compressed(mlp(192, 96, 24, 96, 192), smaller(images("cifar10", 4000, 1000), 8), 0.0, s), 800
    ),
    "deep silu": Task(lambda s: in_a_row(s, "fashion-mnist", 11, 48, nn.SiLU), 600),
    "conv": Task(
        lambda s: on_images(
            conv(1, 16, 32, norm=True, classes=10, side=16), smaller(images("fashion-mnist", 4000, 2000), 16), 32, s
        ),
        400,
    ),
    "rare": Task(lambda s: sparse(s, 4000, 20, 6000, 1.0, 1.0, 87), 1000),
    "cross": Task(cross, 1500),
}


def few_digits(seed: int) -> Job:
    """200 digits."""
    (x, y), held = _digits()
    return supervised(mlp(64, 128, 10), (x[:200], y[:200]), held, 32, CROSS, seed)


def taught(seed: int) -> Job:
    """A random network of eight numbers, 5,000 rows with noise."""
    rng = _random(91)
    x, a, b = torch.randn(8000, 8, generator=rng), torch.randn(8, 20, generator=rng), torch.randn(20, 1, generator=rng)
    y = standard(torch.sin(x @ a / 2) @ b) + 0.3 * torch.randn(8000, 1, generator=rng)
    return supervised(mlp(8, 64, 64, 1, act=nn.GELU), *split(x, y, 5000), 128, SQUARE, seed)


def bought(seed: int) -> Job:
    """Of an item, whether a user bought it, 60 a user, by factors and biases."""
    where, scores = asked(24_000, 400, 250, 1, 92)
    drawn = torch.rand(24_000, generator=_random(93)) < torch.sigmoid(2 * scores[:, 0])
    return supervised(Tastes(400, 250, 6), *split(where, drawn.float(), 18_000), 256, BINARY, seed)


def plate(seed: int) -> Job:
    """u_xx + u_yy = 0 on the unit square, given on its edge: sin(πx) at the top, nothing elsewhere."""

    def solution(at: Tensor) -> Tensor:
        x, y = at[:, :1], at[:, 1:]
        return torch.sin(math.pi * x) * torch.sinh(math.pi * y) / math.sinh(math.pi)

    def residual(network: nn.Module, rng: torch.Generator) -> Tensor:
        at, edge = torch.rand(2, 80, 2, generator=rng)
        at.requires_grad_()
        edge[:40, 0], edge[40:, 1] = (edge[:40, 0] > 0.5).float(), (edge[40:, 1] > 0.5).float()
        du = slopes(network(at), at)
        curve = slopes(du[:, 0], at)[:, 0] + slopes(du[:, 1], at)[:, 1]
        return curve.square().mean() / 10 + 4 * SQUARE(network(edge), solution(edge))

    where = torch.rand(500, 2, generator=_random(94))
    return physics(mlp(2, 32, 32, 1, act=nn.Tanh), residual, (where, solution(where)), seed)


@cache
def tides(rows: int) -> Tensor:
    """Three rhythms whose lengths have no common measure, with noise."""
    t = torch.arange(float(rows))
    waves = sum(a * torch.sin(2 * math.pi * t / p) for a, p in ((1.0, 12.42), (0.5, 12.0), (0.3, 23.93)))
    return waves + 0.1 * torch.randn(rows, generator=_random(95))


def arc(seed: int) -> Job:
    """Seven Gaussians on half a circle."""
    angles = torch.linspace(0, math.pi, 7)
    return gan(seed, torch.stack([angles.cos(), angles.sin() - 0.5], 1), 0.04)


AGAIN: dict[str, Task] = {
    "few digits": Task(few_digits, 500),
    "taught": Task(taught, 1500),
    "bought": Task(bought, 1200),
    "plate": Task(plate, 800),
    "tides": Task(lambda s: forecast(nn.GRU, 32, tides(1800), 24, 3, s), 500),
    "heaps": Task(lambda s: characters(s, ("difflib", "heapq"), 32, 64, 1, 0.02), 400),
    "strokes": Task(
        lambda s: compressed(
            mlp(196, 128, 16, 128, 196, act=nn.Tanh), smaller(images("mnist", 4000, 1000), 14), 0.0, s
        ),
        800,
    ),
    "deep elu": Task(lambda s: in_a_row(s, "mnist", 9, 64, nn.ELU), 600),
    "conv of three": Task(
        lambda s: on_images(
            conv(3, 16, 32, 64, norm=True, classes=10, side=16), smaller(images("cifar10", 4000, 1000), 16), 32, s
        ),
        400,
    ),
    "modules": Task(
        lambda s: supervised(
            Words(8192, 6), *words("ftplib", "tarfile", "zipfile", "smtplib", "csv", "mailbox"), 64, CROSS, s
        ),
        800,
    ),
    "arc": Task(arc, 1500),
}
