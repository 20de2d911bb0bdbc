"""A fair table for the examples: recopt's rules without a rate to choose, against Adam tuned over six rates.

Adam's rate is chosen on seeds of its own, which the table does not report; all rules then get the same starts, data
and steps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median

import torch
from torch import nn

import recopt

RATES = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
TUNING_SEEDS = (100, 101)

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimizer for some parameters."""
Train = Callable[[Make, int, int], float]
"""``train(make, steps, seed)`` trains from scratch; the score on held-out data, the lower the better."""


def default(params: Iterable[nn.Parameter], steps: int) -> recopt.Optimizer:
    """The default, told how long the run is."""
    return recopt.Optimizer(params, steps=steps)


class Averaged(recopt.Optimizer):
    """A tower over Adam with a mean of the iterates, at which the model is read at the end."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, "adam/kesten[lr]", average=True)


def at_its_best(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """The model at the mean of its iterates inside ``with``, if the optimizer keeps one."""
    return optimizer.averaged() if isinstance(optimizer, Averaged) else nullcontext()


def tuned_adam(train: Train, steps: int, seeds: Iterable[int] = TUNING_SEEDS) -> float:
    """The rate of Adam with the least median score on the tuning seeds."""

    def score(rate: float) -> float:
        found = [train(partial(torch.optim.Adam, lr=rate), steps, seed) for seed in seeds]
        return median(value if math.isfinite(value) else math.inf for value in found)

    return min(RATES, key=score)


def main(train: Train, score: str, steps: int) -> None:
    """Train with each rule and print the table.

    Args:
        score: what ``train`` returns, in words.
        steps: updates of a run, if ``--steps`` does not say otherwise.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rate = tuned_adam(train, options.steps)
    rules = {
        "recopt.Optimizer(params, steps=N)": partial(default, steps=options.steps),
        "adam/kesten[lr], at its mean": Averaged,
        f"Adam, tuned: lr {rate:g}": partial(torch.optim.Adam, lr=rate),
        "Adam, lr 0.001": partial(torch.optim.Adam, lr=1e-3),
    }
    print(f"{score}; {options.steps} steps, median of {options.seeds} seeds (least to most)")
    for name, make in rules.items():
        found = sorted(train(make, options.steps, seed) for seed in range(options.seeds))
        print(f"{name:33} {median(found):.4g} ({found[0]:.4g} to {found[-1]:.4g})", flush=True)
