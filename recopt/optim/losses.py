"""Losses as a training loop gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts.errors import RecoptError


def one_number(loss: Any, whose: str) -> Tensor:
    """A loss as a detached tensor without dimensions.

    Raises:
        RecoptError: if it is not one number.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return loss.detach().reshape(())
    number = getattr(loss, "item", lambda: loss)() if getattr(loss, "size", 1) == 1 else loss
    if isinstance(number, bool) or not isinstance(number, int | float):
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
        raise RecoptError(f"{whose} gave {what} as the loss: give one number, the loss itself.")
    return torch.tensor(float(number), dtype=torch.float64)
