"""Two hundred models of twenty kinds, as people write them: constructors by kind and name, and batches for each.

A model that has a method ``own_loss`` is trained by that. All others by a mean of squares, whatever shape they give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recopt.contracts.task import Batch, Split, Task

Build = Callable[[], nn.Module]


class Entry(NamedTuple):
    """One model: its kind and name, its constructor, and what its batches are."""

    kind: str
    name: str
    build: Build
    data: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


ZOO: list[Entry] = []


def add(kind: str, data: str = "features", /, **models: Build) -> None:
    """Put models of one kind into the zoo, all with the same kind of batch."""
    ZOO.extend(Entry(kind, name, build, data) for name, build in models.items())


SHAPES: dict[str, tuple[int, ...]] = {
    "features": (6,),
    "image": (3, 8, 8),
    "sequence": (5, 6),
    "line": (3, 8),
    "volume": (2, 4, 4, 4),
}
ROWS = 4


class Trained(Task):
    """One model of the zoo on random batches."""

    def __init__(self, entry: Entry, **options: Any) -> None:
        super().__init__(**options)
        self.entry = entry

    def model(self) -> nn.Module:
        return self.entry.build()

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index, ("train", "valid", "test").index(split))
        if self.entry.data == "tokens":
            return torch.randint(1, 10, (ROWS, 5), generator=g)
        return torch.randn(ROWS, *SHAPES[self.entry.data], generator=g, dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        own: Any = getattr(model, "own_loss", None)
        if own is not None:
            return own(batch)
        out = model(batch)
        out = out[0] if isinstance(out, tuple) else out
        return (out - 0.3).square().mean() + 0.1 * out.flatten(1)[:, 0].mean()


class Wrap(nn.Module):
    """A model around parts, with its forward given as a function of itself and the batch."""

    def __init__(self, call: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


from . import layers, losses, odd, sequences, wrapped  # noqa: E402

__all__ = ["ZOO", "Entry", "Trained", "layers", "losses", "odd", "sequences", "wrapped"]
