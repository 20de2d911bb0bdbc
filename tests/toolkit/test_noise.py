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


def after(ops: Ops, grads: Iterator[list[Tensor]], decay: float, sizes: tuple[int, int] = (300, 100)) -> float:
    """The share of noise after all of them, which is the same for both tensors."""
    numbers = {name: [torch.full((), at, dtype=torch.float64) for _ in range(2)] for name, at in UNHEARD.items()}
    mean = [torch.zeros(size, dtype=torch.float64) for size in sizes]
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


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
@pytest.mark.parametrize(("signal", "expected"), [(0.0, 1.0), (0.3, 0.0)])
def test_of_gradients_that_touch_few_entries_it_is_those_entries_that_go_on(
    signal: float, expected: float, share: float
) -> None:
    """Without zeros the agreement is 19 · 0.09 / 1.09 = 1.6; of a tenth of the entries it is 0.16, as in noise."""

    def sparse() -> Iterator[list[Tensor]]:
        dice = torch.Generator().manual_seed(1)
        for _ in range(120):
            entries = torch.randn(40_000, generator=dice, dtype=torch.float64) + signal
            yield list((entries * (torch.rand(40_000, generator=dice) < share)).split([30_000, 10_000]))

    assert after(TensorOps(), sparse(), 0.9, sizes=(30_000, 10_000)) == pytest.approx(expected, abs=0.03)


def test_the_share_that_a_gradient_touches_is_one_without_zeros_and_is_measured_now_and_then() -> None:
    mean = [torch.tensor([3.0, 0.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)]
    unheard = {name: [torch.full((), at, dtype=torch.float64) for _ in range(2)] for name, at in UNHEARD.items()}
    dense, half = ([torch.ones(2).double(), torch.full((1,), at).double()] for at in (1.0, 0.0))
    for step, grad, expected in ((8, dense, 1.0), (8, half, 9 / 25), (9, half, 1.0), (80, half, 0.9 + 0.1 * 9 / 25)):
        touched = heard(TensorOps(), grad, mean, unheard, step, 0.9)["touched"]
        assert [float(x) for x in touched] == pytest.approx([expected] * 2)


def test_before_any_gradient_it_stays_as_it_was() -> None:
    nothing = [torch.zeros(2).double(), torch.zeros(1).double()]
    unheard = {name: [torch.full((), at, dtype=torch.float64) for _ in range(2)] for name, at in UNHEARD.items()}
    assert [float(x) for x in heard(TensorOps(), nothing, nothing, unheard, 8, 0.9)["touched"]] == [1.0, 1.0]
