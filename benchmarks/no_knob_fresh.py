"""More tasks of the kinds of no_knob_tasks.py, of other data, networks and lengths.

Changes to the default are tried on ``DEVELOPMENT``; ``SEALED`` are for the end alone. Their first figures are
published, with what is lost on some of them: a later change to the default should be judged on others too.
"""

from __future__ import annotations

import copy
import math
from functools import cache

import torch
from no_knob_data import _digits, boxes, images, load_of_a_grid, mackey_glass, shipped, smaller, source, split, words
from no_knob_equations import heat, logistic_growth
from no_knob_jobs import CROSS, SQUARE, Job, Pair, Task, _random, mlp, supervised
from no_knob_networks import Factors, Words
from no_knob_tasks import gan
from torch import Tensor, nn
from transformer import Transformer


def matrix(seed: int, rows: int, columns: int, rank: int, known: int, std: float, batch: int) -> Job:
    """A matrix of rank 4 of which ``known`` entries are, with noise, in factors that begin at ``std``."""
    rng = _random(22)
    left, right = torch.randn(rows, 4, generator=rng), torch.randn(columns, 4, generator=rng)
    where = torch.stack([torch.randint(n, (known + 4000,), generator=rng) for n in (rows, columns)], 1)
    values = (left[where[:, 0]] * right[where[:, 1]]).sum(1) / 2 + 0.5 * torch.randn(known + 4000, generator=rng)
    network = Factors(rows, columns, rank)
    for table in (network.rows, network.columns):
        nn.init.normal_(table.weight, std=std)
    train, held = (where[:known], values[:known]), (where[known:], values[known:])
    return supervised(network, train, held, batch, SQUARE, seed)


class Forecaster(nn.Module):
    """A recurrent network and a linear map of its last state; (batch, length) to (batch, 1)."""

    def __init__(self, cell: type[nn.RNNBase], width: int) -> None:
        super().__init__()
        self.cell, self.head = cell(1, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:
        """The next value."""
        return self.head(self.cell(series[:, :, None])[0][:, -1])


def forecast(cell: type[nn.RNNBase], width: int, series: Tensor, length: int, ahead: int, seed: int) -> Job:
    """The value ``ahead`` steps after ``length`` others; the last third is held out."""
    windows = ((series - series.mean()) / series.std()).unfold(0, length + ahead, 1)
    pair, cut = (windows[:, :length].contiguous(), windows[:, -1:].contiguous()), 2 * len(windows) // 3
    train, held = ((x[:cut], y[:cut]) for x, y in [pair]), ((x[cut + length :], y[cut + length :]) for x, y in [pair])
    return supervised(Forecaster(cell, width), next(train), next(held), 32, SQUARE, seed)


def letters(modules: tuple[str, ...], context: int) -> tuple[int, list[Pair]]:
    """How many characters there are in Python's library, and rows of them with those that follow; a fifth held out."""
    content = "\n".join(source(*modules)[0])[:120_000]
    index = {c: i for i, c in enumerate(sorted(set(content)))}
    rows = torch.tensor([index[c] for c in content]).unfold(0, context + 1, context)
    held = torch.arange(len(rows)) % 5 == 4
    return len(index), [(r[:, :-1].contiguous(), r[:, 1:].contiguous()) for r in (rows[~held], rows[held])]


def characters(seed: int, modules: tuple[str, ...], context: int, width: int, layers: int, std: float | None) -> Job:
    """The next character of Python's library, by a transformer."""
    count, pairs = letters(modules, context)
    return following(Transformer(count, context, width, layers, std), pairs, seed)


def following(network: nn.Module, pairs: list[Pair], seed: int) -> Job:
    """The next of characters, which a network gives in one row of logits for each place."""
    return supervised(network, pairs[0], pairs[1], 16, lambda out, y: CROSS(out, y.flatten()), seed)


def clicks(seed: int) -> Job:
    """One feature of each of six fields, 200 to 2,000 values each: few clicks."""
    rng, fields = _random(25), (200, 400, 800, 1200, 1600, 2000)
    odds = [1 / torch.arange(1.0, n + 1) for n in fields]
    on = torch.stack([torch.multinomial(o, 12_000, True, generator=rng) for o in odds], 1)
    on = on + torch.tensor([0, *fields[:-1]]).cumsum(0)
    truth = 0.8 * torch.randn(sum(fields), 1, generator=rng)
    y = (torch.sigmoid(truth[on][:, :, 0].sum(1) - 2) > torch.rand(12_000, generator=rng)).long()
    return supervised(Words(sum(fields), 2), (on[:9000], y[:9000]), (on[9000:], y[9000:]), 128, CROSS, seed)


def conv(channels: int, *widths: int, norm: bool, classes: int, side: int) -> nn.Sequential:
    """Convolutions of 3 × 3, each followed by a halving, and a linear map."""
    layers: list[nn.Module] = []
    for a, b in zip((channels, *widths), widths, strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
        side //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, classes))


def on_images(network: nn.Module, pairs: tuple[Pair, Pair], batch: int, seed: int) -> Job:
    """Classes of images."""
    return supervised(network, *pairs, batch, CROSS, seed)


def in_a_row(seed: int, data: str, layers: int, width: int, act: type[nn.Module]) -> Job:
    """Classes of 5,000 images of 14 × 14, by linear layers in a row."""
    network = nn.Sequential(nn.Flatten(), mlp(196, *[width] * (layers - 1), 10, act=act))
    return on_images(network, smaller(images(data, 5000, 2000), 14), 64, seed)


def compressed(network: nn.Module, pairs: tuple[Pair, Pair], noise: float, seed: int) -> Job:
    """Images from themselves, with noise."""
    (x, _), (u, _) = pairs
    x, u = x.flatten(1), u.flatten(1)
    seen = [t + noise * torch.randn(t.shape, generator=_random(26)) for t in (x, u)]
    return supervised(network, (seen[0], x), (seen[1], u), 64, SQUARE, seed)


def layout(seed: int, scale: float) -> Job:
    """Places of 60 points from noisy distances of some pairs, which begin ``scale`` wide; scored by all pairs."""
    rng, model = _random(27), nn.Module()
    truth = 10 * torch.randn(60, 2, generator=rng)
    pairs = torch.combinations(torch.arange(60))[torch.randperm(1770, generator=rng)]
    far = (truth[pairs[:, 0]] - truth[pairs[:, 1]]).norm(dim=1)
    told, at = far + 0.5 * torch.randn(1770, generator=rng), _random(seed)
    model.places = nn.Parameter(truth + scale * torch.randn(60, 2, generator=at))

    def error(rows: Tensor, wanted: Tensor) -> Tensor:
        return ((model.places[rows[:, 0]] - model.places[rows[:, 1]]).norm(dim=1) - wanted).square().mean()

    def step() -> Tensor:
        some = torch.randint(600, (64,), generator=at)
        return error(pairs[some], told[some])

    return Job([model], [step], lambda: float(error(pairs, far).detach()))


@cache
def trained(name: str) -> nn.Module:
    """A network after a training by Adam at 2e-3 with a cosine: on digits 0 to 5, or on dark Fashion-MNIST."""
    torch.manual_seed(0)
    if name == "digits":
        (x, y), _ = _digits()
        network, pair, steps = mlp(64, 64, 32, 10), (x[y < 6], y[y < 6]), 600
    else:
        (x, y), _ = smaller(images("fashion-mnist", 6000, 2000), 14)
        network, pair, steps = conv(1, 16, 32, norm=True, classes=10, side=14), (x, y), 600
    opt = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for _ in range(steps):
        rows = torch.randint(len(pair[0]), (64,))
        opt.zero_grad()
        CROSS(network(pair[0][rows]), pair[1][rows]).backward()
        opt.step()
        schedule.step()
    return network


def further(name: str, pairs: tuple[Pair, Pair], seed: int) -> Job:
    """A trained network on another task."""
    return supervised(copy.deepcopy(trained(name)), *pairs, 32, CROSS, seed)


def digits_left(seed: int) -> Job:
    """From six classes of digits to ten, 200 images."""
    (x, y), held = _digits()
    return further("digits", ((x[:200], y[:200]), held), seed)


def turned(seed: int) -> Job:
    """From Fashion-MNIST to the same on its side and noisy, 500 images."""

    def side(pair: Pair, rows: int) -> Pair:
        x = pair[0][:rows].rot90(1, (2, 3))
        return x + 0.3 * torch.randn(x.shape, generator=_random(28)), pair[1][:rows]

    train, held = smaller(images("fashion-mnist", 6000, 2000), 14)
    return further("fashion", (side(train, 500), side(held, 2000)), seed)


def moons(seed: int) -> Job:
    """Two half circles."""
    t = torch.linspace(0, math.pi, 20)
    first, second = torch.stack([t.cos(), t.sin()], 1), torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)
    return gan(seed, torch.cat([first, second]) - torch.tensor([0.5, 0.25]), 0.05)


def clusters(seed: int) -> Job:
    """Six Gaussians, thrown."""
    return gan(seed, 1.5 * torch.randn(6, 2, generator=_random(31)), 0.1)


def waves(seed: int) -> Job:
    """A function of three variables, of which one is rough, without noise."""
    x = 2 * torch.rand(4000, 3, generator=_random(32)) - 1
    y = (torch.sin(6 * x[:, :1]) + x[:, 1:2].abs()) * torch.exp(-x[:, 2:])
    network = mlp(3, 64, 64, 1, act=nn.SiLU)
    return supervised(network, (x[:3000], y[:3000]), (x[3000:], y[3000:]), 64, SQUARE, seed)


def rows_of(name: str, widths: tuple[int, ...], rows: int, batch: int, act: type[nn.Module], seed: int) -> Job:
    """A shipped table, of which ``rows`` are trained on."""
    return supervised(
        mlp(*widths, act=act), *split(*shipped(name), rows), batch, SQUARE if widths[-1] == 1 else CROSS, seed
    )


DEVELOPMENT: dict[str, Task] = {
    "cancer": Task(lambda s: rows_of("breast_cancer", (30, 32, 32, 2), 150, 32, nn.ReLU, s), 500),
    "noisy rows": Task(lambda s: supervised(mlp(20, 64, 2), *split(*boxes(1400, 20, 0.2, 33), 400), 32, CROSS, s), 800),
    "boxes": Task(
        lambda s: supervised(mlp(16, 128, 64, 2), *split(*boxes(14_000, 16, 0.1, 34), 10_000), 128, CROSS, s),
        1500,
    ),
    "wide factors": Task(lambda s: matrix(s, 500, 300, 6, 20_000, 1.0, 256), 1500),
    "heat": Task(heat, 1200),
    "chaos": Task(lambda s: forecast(nn.LSTM, 24, mackey_glass(1500), 16, 4, s), 500),
    "python": Task(lambda s: characters(s, ("argparse", "typing"), 48, 48, 2, 0.02), 400),
    "denoising": Task(
        lambda s: compressed(mlp(196, 64, 16, 64, 196), smaller(images("mnist", 4000, 1000), 14), 0.5, s),
        800,
    ),
    "deep tanh": Task(lambda s: in_a_row(s, "fashion-mnist", 9, 64, nn.Tanh), 800),
    "batchnorm": Task(
        lambda s: on_images(
            conv(3, 12, 24, norm=True, classes=10, side=16), smaller(images("cifar10", 3000, 1000), 16), 32, s
        ),
        400,
    ),
    "clicks": Task(clicks, 1200),
    "moons": Task(moons, 1500),
    "digits left": Task(digits_left, 200),
    "layout": Task(lambda s: layout(s, 5.0), 1000),
    "waves": Task(waves, 3000),
}
SEALED: dict[str, Task] = {
    "wine": Task(lambda s: rows_of("wine", (13, 64, 3), 60, 16, nn.Tanh, s), 300),
    "diabetes": Task(lambda s: rows_of("diabetes", (10, 64, 64, 1), 200, 32, nn.ReLU, s), 1000),
    "more boxes": Task(
        lambda s: supervised(
            mlp(30, 64, 64, 64, 2, act=nn.GELU), *split(*boxes(24_000, 30, 0.05, 35), 20_000), 64, CROSS, s
        ),
        2500,
    ),
    "small factors": Task(lambda s: matrix(s, 200, 400, 10, 10_000, 0.01, 128), 800),
    "growth": Task(logistic_growth, 1500),
    "grid": Task(lambda s: forecast(nn.GRU, 32, load_of_a_grid(1800), 24, 1, s), 700),
    "library": Task(lambda s: characters(s, ("decimal", "inspect", "tarfile"), 32, 64, 1, None), 800),
    "garments": Task(
        lambda s: compressed(
            mlp(196, 128, 32, 128, 196, act=nn.GELU), smaller(images("fashion-mnist", 4000, 1000), 14), 0.0, s
        ),
        1000,
    ),
    "deep relu": Task(lambda s: in_a_row(s, "mnist", 15, 48, nn.ReLU), 1000),
    "mnist": Task(
        lambda s: on_images(
            conv(1, 8, 16, norm=True, classes=10, side=14), smaller(images("mnist", 4000, 2000), 14), 64, s
        ),
        250,
    ),
    "words": Task(
        lambda s: supervised(Words(8192, 4), *words("argparse", "decimal", "tarfile", "inspect"), 64, CROSS, s),
        1000,
    ),
    "clusters": Task(clusters, 2000),
    "turned": Task(turned, 200),
    "wide layout": Task(lambda s: layout(s, 20.0), 600),
    "cifar": Task(
        lambda s: on_images(
            conv(3, 16, 32, norm=False, classes=10, side=16), smaller(images("cifar10", 6000, 1000), 16), 64, s
        ),
        800,
    ),
}
