"""The record of a taped window: what a strategy gave, with its graph, and what came after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..contracts.strategy import Params, State


class Record:
    """The updates of one window, differentiable in the coordinates of the strategy that made them.

    Args:
        whose: the strategy's label, for refusals.
        start: its state before the first update.

    Attributes:
        leaves: the coordinates, as the updates' graph has them.
        inputs: what each update was made from, so that it can be made again.
        updates: the updates, oldest first.
        suffix: of each update the weighted sum of the signals that came after it.
        live: the state after the last update, with its graph.
    """

    def __init__(self, whose: str, start: State) -> None:
        self.whose, self.start, self.live = whose, start, start
        self.leaves: Params = []
        self.inputs: list[dict[str, Any]] = []
        self.updates: list[Params] = []
        self.suffix: list[Params] = []

    def feed(self, cotangents: Params, weight: float = 1.0) -> None:
        """``cotangents`` came after all updates recorded so far: add them to each one's suffix sum."""
        weighted = cotangents if weight == 1.0 else [c * weight for c in cotangents]
        self.suffix = [[a + b for a, b in zip(s, weighted, strict=True)] for s in self.suffix]
        self.suffix += [weighted] * (len(self.updates) - len(self.suffix))

    def pull(self) -> Params:
        """The hypergradient of the window, one tensor per coordinate; the record stays.

        Raises:
            RecoptError: if nothing that the strategy returned depends on its parameters.
        """
        outputs = [d for step in self.updates for d in step]
        after = [c for step in self.suffix for c in step]
        live = [(o, c.to(o.dtype)) for o, c in zip(outputs, after, strict=True) if o.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(self.leaves)
        if live:
            found = torch.autograd.grad(
                [o for o, _ in live], self.leaves, [c for _, c in live], allow_unused=True, retain_graph=True
            )
        if all(g is None for g in found):
            raise RecoptError(
                f"The updates of '{self.whose}' do not depend on its parameters, so no level can move them: "
                "use a zero-order strategy above it, or none."
            )
        return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, self.leaves, strict=True)]

    def shorten(self, keep: float) -> None:
        """The last update was only ``keep`` of what it is on record as; made anew, it follows from the rate."""
        with torch.enable_grad():
            self.updates[-1] = [d * keep for d in self.updates[-1]]

    def length(self) -> float:
        """The norm of all updates together."""
        return float(trees.norm([d for step in self.updates for d in step]))
