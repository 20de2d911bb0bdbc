"""The worth of windows: two short ones against one twice as long, by constructed directions."""

from __future__ import annotations

import pytest
import torch

from recopt.engine.window_length import FIRST, pause, pointing, worth


def directions(*signals: tuple[float, ...]) -> torch.Tensor:
    """Those of examinations of windows that follow each other, of one number."""
    return torch.stack([pointing([torch.tensor([x], dtype=torch.float64) for x in each]) for each in signals])


def test_short_windows_that_say_the_same_lead_twice_as_far() -> None:
    found = worth(directions((0.1, 0.2), (3, 1), (1, 1), (2, 5)), directions((1,), (7,), (0.1,), (2,)))
    assert (found.across, found.along, found.margin, found.error) == (1, 1, 1, 0)
    assert found.short and not found.long


def test_short_windows_that_turn_back_are_left() -> None:
    found = worth(directions((1, -1), (-1, 1), (1, -1), (2, -3)), directions((1,), (1,), (1,), (1,)))
    assert found.across == 0 and found.margin == -1
    assert found.long and not found.short


def test_one_short_window_of_two_is_no_sure_loss() -> None:
    found = worth(directions((1, -1), (1, 1), (1, -1), (1, 1)), directions((1,), (1,), (1,), (1,)))
    assert found.margin == 0 and not found.long and not found.short


def test_long_windows_that_disagree_say_nothing() -> None:
    found = worth(directions((1, 1), (1, 1), (-1, -1), (-1, -1)), directions((1,), (1,), (-1,), (-1,)))
    assert found.along < 0 and found.margin == found.along and not found.long and not found.short


@pytest.mark.parametrize("numbers", [1, 30])
def test_noise_that_windows_share_speaks_for_none(numbers: int) -> None:
    dice = torch.Generator().manual_seed(0)
    wrong = 0
    for _ in range(100):
        one, two = torch.randn(2, 8, numbers, generator=dice, dtype=torch.float64)
        short = torch.stack([pointing([a, b]) for a, b in zip(one, two, strict=True)])
        long = torch.stack([pointing([a + b]) for a, b in zip(one, two, strict=True)])
        found = worth(short, long)
        wrong += found.short or found.long
    assert wrong < 5


def test_pauses_grow_with_the_steps_since_the_last_choice() -> None:
    assert [pause(n) for n in (0, 20, 40, 60, 1000)] == [FIRST, FIRST, FIRST, 30, 500]
