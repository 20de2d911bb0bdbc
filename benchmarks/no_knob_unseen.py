"""Tasks on which the default's step was not chosen: of the kinds of no_knob_tasks.py and no_knob_fresh.py, other ones.

The default was not run on them while they were made. They were checked with Adam alone: that it learns each, that its
best rate is seldom at an edge of the grid, and that a seed gives one run. What was chosen by their figures since, with
those of all other tasks: how far the default's weights shrink (``shrink``), on one seed.
"""

from __future__ import annotations

import math
import zlib

import no_knob_networks as networks
import torch
from no_knob_data import _digits, asked, images, phases, roessler, shells, smaller, source, split, standard
from no_knob_equations import physics, slopes
from no_knob_fresh import characters, forecast, on_images, rows_of, trained
from no_knob_jobs import BINARY, CROSS, SQUARE, Job, Pair, Task, _random, mlp, supervised
from no_knob_networks import Words
from no_knob_tasks import gan
from torch import Tensor, nn
from torch.nn import functional


def prices(seed: int) -> Job:
    """Codes and numbers, of which some multiply, with noise of heavy tails; Huber's loss."""
    rng = _random(53)
    codes, numbers = torch.randint(30, (9000, 3), generator=rng), torch.randn(9000, 5, generator=rng)
    worth = torch.randn(3, 30, generator=rng)
    a, b, c = (worth[i][codes[:, i]] for i in range(3))
    y = a + b * numbers[:, 0] + torch.relu(c + numbers[:, 1]) * numbers[:, 2].sin() + 0.5 * numbers[:, 3]
    normal, chi = torch.randn(9000, generator=rng), torch.randn(9000, 3, generator=rng).square().mean(1).sqrt()
    y = standard((y + 0.4 * normal / chi)[:, None])
    train, held = split(torch.cat([codes, numbers], 1), y, 6000)
    return supervised(networks.Mixed(5), train, held, 128, functional.smooth_l1_loss, seed)


def fraud(seed: int) -> Job:
    """About one row in twenty-five is positive, by two products of features and chance."""
    rng = _random(54)
    x = torch.randn(14_000, 18, generator=rng)
    logits = 2 * x[:, 0] * x[:, 1] + 2 * torch.relu(x[:, 2]) * x[:, 3] + 1.5 * x[:, 4] - 6
    y = (torch.sigmoid(logits) > torch.rand(14_000, generator=rng)).float()[:, None]
    return supervised(mlp(18, 64, 32, 1), *split(x, y, 9000), 128, BINARY, seed)


def ratings(seed: int) -> Job:
    """Stars from 1 to 5, about 50 a user, as numbers."""
    where, scores = asked(20_000, 300, 200, 1, 55)
    stars = (3.5 + scores[:, 0] + 0.5 * torch.randn(20_000, generator=_random(56))).round().clamp(1, 5) - 3.5
    return supervised(networks.Tastes(300, 200, 6), *split(where, stars, 15_000), 256, SQUARE, seed)


def ranking(seed: int) -> Job:
    """Of two items, the user's; pairs by their difference (BPR, Rendle et al. 2009)."""
    where, scores = asked(14_000, 200, 100, 2, 57)
    drawn = torch.rand(14_000, generator=_random(58)) < torch.sigmoid(3 * (scores[:, 0] - scores[:, 1]))
    where = torch.where(drawn[:, None], where, where[:, [0, 2, 1]])
    pairs = split(where, torch.ones(14_000), 10_000)
    return supervised(networks.Tastes(200, 100, 4), *pairs, 128, BINARY, seed)


def burgers(seed: int) -> Job:
    """u_t + u u_x = 0.08 u_xx on [-1, 1] × [0, 1]: a wave that travels, given at first and at both ends."""

    def solution(at: Tensor) -> Tensor:
        return 0.5 - 0.5 * torch.tanh((at[:, :1] - 0.5 * at[:, 1:]) / 0.32)

    def residual(network: nn.Module, rng: torch.Generator) -> Tensor:
        at, first, ends = torch.rand(3, 80, 2, generator=rng) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
        at.requires_grad_()
        first[:, 1] = 0
        ends[:, 0] = ends[:, 0].sign()
        u = network(at)
        du = slopes(u, at)
        inside = (du[:, 1] + u[:, 0] * du[:, 0] - 0.08 * slopes(du[:, 0], at)[:, 0]).square().mean()
        known = torch.cat([first, ends])
        return inside + 4 * SQUARE(network(known), solution(known))

    where = torch.rand(500, 2, generator=_random(59)) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
    return physics(mlp(2, 24, 24, 24, 1, act=nn.Tanh), residual, (where, solution(where)), seed)


def membrane(seed: int) -> Job:
    """u_xx + u_yy + 4 u = f on the unit square; u is zero on its edge by its form."""

    def solution(at: Tensor) -> Tensor:
        return torch.sin(math.pi * at[:, :1]) * torch.sin(2 * math.pi * at[:, 1:])

    def residual(network: nn.Module, rng: torch.Generator) -> Tensor:
        at = torch.rand(80, 2, generator=rng).requires_grad_()
        u = network(at)
        du = slopes(u, at)
        curve = slopes(du[:, 0], at)[:, :1] + slopes(du[:, 1], at)[:, 1:]
        return ((curve + 4 * u - (4 - 5 * math.pi**2) * solution(at.detach())) / 15).square().mean()

    where = torch.rand(500, 2, generator=_random(60))
    return physics(networks.Clamped(), residual, (where, solution(where)), seed)


def tied(seed: int) -> Job:
    """Characters, of which one table is the first and the last layer."""
    job = characters(seed, ("pprint", "shlex", "calendar"), 32, 48, 2, 0.02)
    network = job.networks[0]
    network.head.weight = network.token.weight
    return job


def variational(seed: int) -> Job:
    """MNIST by the bound on its likelihood (Kingma & Welling 2014), per pixel."""

    def bound(found: Tensor, x: Tensor) -> Tensor:
        logits, mean, spread = found.split([196, 8, 8], 1)
        apart = (mean.square() + spread.exp() - 1 - spread).sum(1).mean() / 2
        return BINARY(logits, x) + apart / 196

    x, u = ((t.flatten(1) + 1) / 2 for t, _ in smaller(images("mnist", 4000, 1000), 14))
    return supervised(networks.Variational(), (x, x), (u, u), 64, bound, seed)


def patched(seed: int) -> Job:
    """Fashion-MNIST of which a square is cut out, by convolutions with GroupNorm."""
    network = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), nn.GroupNorm(3, 12), nn.SiLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.GroupNorm(3, 24),
        nn.SiLU(), nn.ConvTranspose2d(24, 12, 4, 2, 1), nn.GroupNorm(3, 12), nn.SiLU(),
        nn.ConvTranspose2d(12, 1, 4, 2, 1),
    )  # fmt: skip
    rng, place = _random(64), torch.arange(16)

    def cut(x: Tensor) -> Pair:
        at = torch.randint(10, (len(x), 2, 1), generator=rng)
        out = ((place >= at) & (place < at + 6)).float()
        return x * (1 - out[:, 0, :, None] * out[:, 1, None, :])[:, None], x

    train, held = (cut(x) for x, _ in smaller(images("fashion-mnist", 3000, 1000), 16))
    return supervised(network, train, held, 32, SQUARE, seed)


def residuals(seed: int) -> Job:
    """Seven blocks x + B relu(A x) on Fashion-MNIST."""
    blocks = [networks.Residual(48) for _ in range(7)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(196, 48), *blocks, nn.Linear(48, 10))
    return on_images(network, smaller(images("fashion-mnist", 4000, 2000), 14), 64, seed)


def eight_layers(seed: int) -> Job:
    """A function of five variables with little noise, by eight plain layers."""
    rng = _random(65)
    x = 2 * torch.rand(5000, 5, generator=rng) - 1
    y = torch.sin(3 * x[:, 0] * x[:, 1]) + (x[:, 2] - x[:, 3]).abs() + x[:, 4] ** 3
    y = standard((y + 0.05 * torch.randn(5000, generator=rng))[:, None])
    return supervised(mlp(5, *[48] * 7, 1, act=nn.SiLU), *split(x, y, 3000), 64, SQUARE, seed)


def separable(seed: int) -> Job:
    """Convolutions of one channel each and of one pixel, with BatchNorm, on MNIST in noise."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
        nn.BatchNorm2d(16), nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 49, 10),
    )  # fmt: skip
    rng, (train, held) = _random(66), smaller(images("mnist", 4000, 2000), 14)
    train, held = ((x + 0.4 * torch.randn(x.shape, generator=rng), y) for x, y in (train, held))
    return on_images(network, (train, held), 64, seed)


def trigrams(seed: int) -> Job:
    """Which of five modules a line is of, by its characters in threes, as numbers up to 4,095."""
    lines, labels = source("csv", "zipfile", "datetime", "ast", "random")
    kept = [(line.strip()[:26], y) for line, y in zip(lines, labels, strict=True) if len(line.strip()) > 8]
    table = torch.zeros(len(kept), 24, dtype=torch.int64)
    for row, (line, _) in enumerate(kept):
        codes = [1 + zlib.crc32(line[i : i + 3].encode()) % 4095 for i in range(len(line) - 2)]
        table[row, : len(codes)] = torch.tensor(codes)
    pairs = split(table, torch.tensor([y for _, y in kept]), 2 * len(kept) // 3)
    return supervised(Words(4096, 5), *pairs, 32, CROSS, seed)


def spiral(seed: int) -> Job:
    """One arm that turns once and a half."""
    t = torch.linspace(0.3, 1, 30)
    return gan(seed, 1.2 * t[:, None] * torch.stack([(8 * t).cos(), (8 * t).sin()], 1), 0.05)


def low_rank(seed: int) -> Job:
    """From six classes of digits to all ten in a mirror, 300 images."""
    (x, y), (u, v) = _digits()
    x, u = (t.unflatten(1, (8, 8)).flip(2).flatten(1) for t in (x, u))
    return supervised(networks.LowRank(trained("digits"), seed), (x[:300], y[:300]), (u, v), 32, CROSS, seed)


def twins(seed: int) -> Job:
    """Pairs of digits, half of one class: near if they are, else at least 1 apart (Hadsell et al. 2006)."""

    def apart(distance: Tensor, same: Tensor) -> Tensor:
        return torch.where(same, distance.square(), (1 - distance).relu().square()).mean()

    rng = _random(67)

    def paired(x: Tensor, y: Tensor) -> Pair:
        first = torch.randint(len(x), (3000,), generator=rng)
        second = torch.multinomial(torch.where(y[first][:, None] == y, 9.0, 1.0), 1, generator=rng)[:, 0]
        return torch.stack([x[first], x[second]], 1), y[first] == y[second]

    train, held = (paired(*pair) for pair in _digits())
    return supervised(networks.Twins(), train, held, 64, apart, seed)


def dropout(seed: int) -> Job:
    """Two wide layers that lose half their units, on 2,000 images of Fashion-MNIST."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(196, 384), nn.ReLU(), nn.Dropout(0.5), nn.Linear(384, 384), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(384, 10),
    )  # fmt: skip
    return on_images(network, smaller(images("fashion-mnist", 2000, 2000), 14), 64, seed)


def graph(seed: int) -> Job:
    """400 nodes in four groups, which link within more often; the groups of 100 are told."""
    rng = _random(68)
    group = torch.randint(4, (400,), generator=rng)
    odds = torch.where(group[:, None] == group, 0.05, 0.012)
    links = (torch.rand(400, 400, generator=rng) < odds).triu(1).float()
    links = links + links.T + torch.eye(400)
    links = links / (links.sum(1, keepdim=True) * links.sum(1)).sqrt()
    features = torch.randn(4, 24, generator=rng)[group] + 3 * torch.randn(400, 24, generator=rng)
    pairs = split(torch.arange(400), group, 100)
    return supervised(networks.Neighbours(features, links, 4), *pairs, 32, CROSS, seed)


UNSEEN: dict[str, Task] = {
    "iris": Task(lambda s: rows_of("iris", (4, 48, 3), 60, 12, nn.GELU, s), 400),
    "shells": Task(lambda s: supervised(mlp(6, 64, 64, 3), *split(*shells(1500), 300), 32, CROSS, s), 600),
    "phases": Task(
        lambda s: supervised(mlp(4, 64, 64, 1, act=nn.SiLU), *split(*phases(1250), 250), 32, SQUARE, s), 700
    ),
    "prices": Task(prices, 2000),
    "fraud": Task(fraud, 1000),
    "ratings": Task(ratings, 2500),
    "ranking": Task(ranking, 1000),
    "burgers": Task(burgers, 800),
    "membrane": Task(membrane, 1000),
    "flow": Task(lambda s: forecast(nn.RNN, 48, roessler(1500), 12, 2, s), 700),
    "scanner": Task(lambda s: on_images(networks.Scanner(40), smaller(images("mnist", 4000, 2000), 14), 64, s), 500),
    "statistics": Task(lambda s: characters(s, ("statistics", "fractions", "textwrap"), 24, 96, 1, 0.02), 250),
    "tied": Task(tied, 250),
    "patches": Task(
        lambda s: on_images(networks.Patches(12, 64), smaller(images("fashion-mnist", 4000, 1000), 12), 32, s), 500
    ),
    "variational": Task(variational, 800),
    "patched": Task(patched, 300),
    "residual": Task(residuals, 500),
    "eight layers": Task(eight_layers, 1500),
    "separable": Task(separable, 400),
    "trigrams": Task(trigrams, 1000),
    "spiral": Task(spiral, 2000),
    "low rank": Task(low_rank, 300),
    "twins": Task(twins, 1000),
    "dropout": Task(dropout, 300),
    "graph": Task(graph, 200),
}
