"""The data of no_knob.py's tasks: made from seeds of their own, or shipped with a package."""

from __future__ import annotations

import inspect
import math
import zlib
from functools import cache
from importlib import import_module

import torch
from no_knob_jobs import Pair, _random
from torch import Tensor
from torch.nn import functional

from recopt.data import load


@cache
def _classes(rows: int, features: int, noise: float) -> Pair:
    """Three overlapping classes, by a random network of two layers."""
    rng = _random(11)
    x = torch.randn(rows, features, generator=rng)
    a, b = torch.randn(features, 16, generator=rng) / features**0.5, torch.randn(16, 3, generator=rng) / 4
    logits = 6 * torch.tanh(2 * x @ a) @ b
    return x, (logits + noise * torch.randn(logits.shape, generator=rng)).argmax(1)


@cache
def _friedman(rows: int) -> Pair:
    rng = _random(12)
    x = torch.rand(rows, 10, generator=rng)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + torch.randn(rows, generator=rng)
    return 2 * x - 1, ((y - y.mean()) / y.std())[:, None]


@cache
def _digits() -> tuple[Pair, Pair]:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=_random(0))
    x = torch.as_tensor(found.data, dtype=torch.float32)[order] / 8 - 1
    y = torch.as_tensor(found.target, dtype=torch.int64)[order]
    return (x[:1077], y[:1077]), (x[1077:], y[1077:])


@cache
def _fashion() -> tuple[Pair, Pair]:
    found = load("fashion-mnist")
    train, test = found.train[0][:6000].flatten(1).float() / 255, found.test[0][:4000].flatten(1).float() / 255
    mean, scale = train.mean(), train.std()
    return ((train - mean) / scale, found.train[1][:6000].long()), ((test - mean) / scale, found.test[1][:4000].long())


def split(x: Tensor, y: Tensor, rows: int) -> tuple[Pair, Pair]:
    """The first ``rows`` of a shuffled pair, and the others."""
    order = torch.randperm(len(x), generator=_random(21))
    return (x[order[:rows]], y[order[:rows]]), (x[order[rows:]], y[order[rows:]])


@cache
def shipped(name: str) -> Pair:
    """A table of scikit-learn's, standardized."""
    found = getattr(import_module("sklearn.datasets"), f"load_{name}")()
    x, y = torch.as_tensor(found.data).float(), torch.as_tensor(found.target)
    return (x - x.mean(0)) / x.std(0), y.long() if name != "diabetes" else ((y - y.mean()) / y.std()).float()[:, None]


@cache
def images(name: str, rows: int, held: int) -> tuple[Pair, Pair]:
    """Images as floats about 0, (rows, channels, side, side), and their classes."""
    found = load(name)
    pairs = [(found.train, rows), (found.test, held)]
    x, y = [p[0][:n].float() / 128 - 1 for p, n in pairs], [p[1][:n].long() for p, n in pairs]
    x = [t[:, None] if t.ndim == 3 else t for t in x]
    return (x[0], y[0]), (x[1], y[1])


@cache
def boxes(rows: int, features: int, noise: float, seed: int) -> Pair:
    """Classes by a sum of 30 products of thresholds, of which some are flipped."""
    rng = _random(seed)
    x, total = torch.randn(rows, features, generator=rng), torch.zeros(rows)
    for _ in range(30):
        a, b = torch.randint(features, (2,), generator=rng).tolist()
        s, t, w = torch.randn(3, generator=rng).tolist()
        total += w * (x[:, a] > s).float() * (x[:, b] > t).float()
    flipped = torch.rand(rows, generator=rng) < noise
    return x, ((total > total.median()) ^ flipped).long()


@cache
def mackey_glass(rows: int) -> Tensor:
    """A chaotic series (Mackey & Glass 1977, delay 17), every third value."""
    values = [1.2] * 18
    for _ in range(3 * rows + 200):
        values.append(values[-1] + 0.2 * values[-18] / (1 + values[-18] ** 10) - 0.1 * values[-1])
    return torch.tensor(values[-3 * rows :: 3])


@cache
def load_of_a_grid(rows: int) -> Tensor:
    """A day's and a week's rhythm, whose heights wander, with noise."""
    rng, t = _random(24), torch.arange(float(rows))
    wander = 0.03 * torch.randn(2, rows, generator=rng).cumsum(1)
    daily, weekly = torch.sin(t * 2 * math.pi / 24), torch.sin(t * 2 * math.pi / 168)
    return (1 + wander[0]) * daily + 0.5 * weekly + wander[1] + 0.2 * torch.randn(rows, generator=rng)


@cache
def source(*modules: str) -> tuple[list[str], list[int]]:
    """Lines of Python's own library, and of which module each is."""
    lines = [(line, i) for i, m in enumerate(modules) for line in inspect.getsource(import_module(m)).splitlines()]
    return [line for line, _ in lines], [i for _, i in lines]


@cache
def words(*modules: str) -> tuple[Pair, Pair]:
    """The words of a line as numbers up to 8,192, 0 where there is none; and its module."""
    lines, labels = source(*modules)
    kept = [(line.replace("(", " ").replace(".", " ").split()[:12], y) for line, y in zip(lines, labels, strict=True)]
    kept = [(found, y) for found, y in kept if found]
    table = torch.zeros(len(kept), 12, dtype=torch.int64)
    for row, (found, _) in enumerate(kept):
        table[row, : len(found)] = torch.tensor([1 + zlib.crc32(w.encode()) % 8191 for w in found])
    return split(table, torch.tensor([y for _, y in kept]), 2 * len(kept) // 3)


def smaller(pairs: tuple[Pair, Pair], side: int) -> tuple[Pair, Pair]:
    """Images averaged down to ``side``."""
    (x, y), (u, v) = pairs
    return (functional.adaptive_avg_pool2d(x, side), y), (functional.adaptive_avg_pool2d(u, side), v)


def standard(x: Tensor) -> Tensor:
    """Columns of mean 0 and deviation 1."""
    return (x - x.mean(0)) / x.std(0)


@cache
def shells(rows: int) -> Pair:
    """Three classes by the distance from the middle in six dimensions; a twentieth of them drawn."""
    rng = _random(51)
    x = torch.randn(rows, 6, generator=rng)
    y = torch.bucketize(x.norm(dim=1), torch.tensor([2.0, 2.6]))
    drawn = torch.rand(rows, generator=rng) < 0.05
    return x, torch.where(drawn, torch.randint(3, (rows,), generator=rng), y)


@cache
def phases(rows: int) -> Pair:
    """Friedman's third regression, with noise."""
    found = import_module("sklearn.datasets").make_friedman3(rows, noise=0.15, random_state=52)
    x, y = (torch.as_tensor(t).float() for t in found)
    return standard(x), standard(y[:, None])


def asked(rows: int, users: int, items: int, each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Users, and items that some like more than others; with each, its score by tastes of rank 3."""
    rng = _random(seed)
    odds = 1 / torch.arange(1.0, items + 1) ** 0.7
    who = torch.randint(users, (rows, 1), generator=rng)
    which = torch.multinomial(odds.expand(rows, items), each, generator=rng)
    left, right = torch.randn(users, 3, generator=rng), torch.randn(items, 3, generator=rng)
    scores = (left[who] * right[which]).sum(2) / 2 + 0.7 * torch.randn(items, generator=rng)[which]
    return torch.cat([who, which], 1), scores


@cache
def roessler(rows: int) -> Tensor:
    """The first coordinate of a chaotic flow (Rössler 1976), every 0.8, with noise."""
    x, y, z, values = 1.0, 1.0, 0.0, []
    for _ in range(80 * rows):
        x, y, z = x - 0.01 * (y + z), y + 0.01 * (x + 0.2 * y), z + 0.01 * (0.2 + z * (x - 5.7))
        values.append(x)
    series = torch.tensor(values[::80])
    return series + 0.2 * torch.randn(rows, generator=_random(61))
