"""Noise among successive gradients: those that do not vanish, and neither go on nor turn back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from recopt.rules.ops import ForeachOps, Ops, TensorOps
from recopt.toolkit.noise import UNHEARD, heard, noise


def gradients(of: Callable[[int, Tensor], Tensor]) -> Iterator[list[Tensor]]:
    dice = torch.Generator().manual_seed(0)
    for step in range(1, 121):
        whole = of(step, torch.randn(400, generator=dice, dtype=torch.float64))
        yield list(whole.split([300, 100]))


def after(ops: Ops, grads: Iterator[list[Tensor]], decay: float) -> float:
    """The share of noise after all of them, which is the same for both tensors."""
    numbers = {name: [torch.full((), at, dtype=torch.float64) for _ in range(2)] for name, at in UNHEARD.items()}
    mean = [torch.zeros(300, dtype=torch.float64), torch.zeros(100, dtype=torch.float64)]
    for step, grad in enumerate(grads, 1):
        numbers = heard(ops, grad, mean, numbers, step, decay)
        mean = [torch.lerp(m, g, 1 - decay) for m, g in zip(mean, grad, strict=True)]
    first, second = noise(ops, numbers, decay)
    assert first == second
    return float(first)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("ops", [TensorOps(), ForeachOps()])
@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (lambda step, dice: dice, 1.0),
        (lambda step, dice: dice + 1e6 * (step < 20), 0.0),  # has vanished
        (lambda step, dice: dice / 4 + 1, 0.0),  # goes on
        (lambda step, dice: dice / 10 + (-1) ** step, 0.0),  # turns
        (lambda step, dice: 1e-9 * dice, 1.0),
        (lambda step, dice: 0 * dice if step > 20 else dice, 0.0),
    ],
)
def test_what_neither_vanishes_nor_goes_on_nor_turns_is_noise(
    of: Callable[[int, Tensor], Tensor], expected: float, ops: Ops, decay: float
) -> None:
    assert after(ops, gradients(of), decay) == pytest.approx(expected, abs=0.03)
