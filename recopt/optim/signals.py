"""Small things that a tower's levels share: signals as numbers or tensors, and the refusal of another kind's state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..contracts.strategy import Params


class Pulled(NamedTuple):
    """A hypergradient, for the levels above, and the product of the norms whose cosine it measures (0: not asked)."""

    signal: list[Any]
    bound: float


def summed(lists: Sequence[list[Any]]) -> list[Any]:
    """The sum of lists of numbers, or of tensors, entry by entry."""
    total = lists[0]
    for other in lists[1:]:
        total = [a + b for a, b in zip(total, other, strict=True)]
    return total


def same_kind(kind: str, saved: dict[str, Any], number: int, where: str) -> None:
    """Raise RecoptError if ``saved`` is the state of another kind of level."""
    if saved["kind"] != kind:
        raise RecoptError(
            f"{where}: level {number + 1} was saved as '{saved['kind']}' and is '{kind}' here: "
            "build the optimizer with the same stack and the same 'fused'."
        )


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


def as_tensors(items: Sequence[Any]) -> Params:
    """Numbers as 0-dimensional float64 tensors; tensors as they are."""
    return [x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in items]


def plain(items: Sequence[Tensor], scalar: bool) -> list[Any]:
    """Numbers where ``scalar``, with one read from the device; else the tensors."""
    return torch.stack([x.double() for x in items]).tolist() if scalar else list(items)


def finite(items: Sequence[Any]) -> bool:
    """Whether every number, or every element, is finite."""
    if items and isinstance(items[0], Tensor):
        return bool(torch.isfinite(trees.norm(items)))
    return math.isfinite(sum(items))


def size(items: Sequence[Any]) -> float:
    """The Euclidean norm of all of ``items``."""
    if items and isinstance(items[0], Tensor):
        return float(trees.norm(items))
    return math.sqrt(sum(x * x for x in items))
