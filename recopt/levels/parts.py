"""Parts of what a level moves: the tensors that had their first gradient at one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State


@dataclass
class Part:
    """Tensors that one level moves and that had their first gradient at the same step, and what it remembers of them.

    Attributes:
        indices: theirs among the parameters of the slot.
        strategy: the strategy's state.
        normal: the normalizer's.
        mean: of the points before the present one, ``folds`` of them, where the level keeps one.
        idle: places in ``indices`` of those that had no gradient at the last step, and stayed where they were.
        recorded: updates in the present window, where derivatives have a closed form.
        scale: the factor on the last update.
        kept: what closed derivatives and the taking back of an update need besides the strategy's state.
    """

    indices: list[int]
    strategy: State
    normal: State = field(default_factory=dict)
    mean: Params = field(default_factory=list)
    folds: int = 0
    idle: list[int] = field(default_factory=list)
    recorded: int = 0
    scale: float = 1.0
    kept: dict[str, Any] = field(default_factory=dict)

    def detach(self) -> None:
        """Truncate the tape through the states of the strategy and the normalizer."""
        self.strategy, self.normal = trees.detach(self.strategy), trees.detach(self.normal)

    def within(self, values: Sequence[Any]) -> list[Any]:
        """Those of a level's ``values`` that are in this part."""
        return [values[i] for i in self.indices]

    def awake(self, values: Params) -> Params:
        """``values``, one for each tensor of this part, with zeros for those that stayed where they were."""
        idle = set(self.idle)
        return [torch.zeros_like(v) if k in idle else v for k, v in enumerate(values)] if idle else values

    def present(self, point: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Params, Params]:
        """The tensors of this part with their gradients, both empty if there are none.

        Tensors without a gradient are to stay as they are: a copy stands in for each, and zeros for its gradient.
        """
        mine: Params = [point[i] for i in self.indices]
        known: list[Any] = [grads[i] for i in self.indices]
        self.idle = [k for k, g in enumerate(known) if g is None]
        if len(self.idle) == len(known):
            return [], []
        for k in self.idle:
            mine[k] = mine[k].detach().clone()
            known[k] = torch.zeros_like(mine[k])
        return mine, known
