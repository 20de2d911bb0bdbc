"""The form of the tasks of no_knob.py: what is trained from a seed, on what, and how it is scored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


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
CROSS, SQUARE, BINARY = functional.cross_entropy, functional.mse_loss, functional.binary_cross_entropy_with_logits


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
