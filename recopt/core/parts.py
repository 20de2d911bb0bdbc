"""Parts of what a level moves: the tensors that had their first gradient at one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.strategy import Params
from ..levels.state import Part


def within(part: Part, values: Sequence[Any]) -> list[Any]:
    """Those of a level's ``values`` that are in ``part``."""
    return [values[i] for i in part.indices]


def awake(part: Part, values: Params) -> Params:
    """``values``, one for each tensor of ``part``, with zeros for those that stayed where they were."""
    idle = set(part.idle)
    return [torch.zeros_like(v) if k in idle else v for k, v in enumerate(values)] if idle else values


def present(part: Part, point: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Params, Params]:
    """The tensors of ``part`` with their gradients, both empty if there are none.

    Tensors without a gradient are to stay as they are: a copy stands in for each, and zeros for its gradient.
    """
    have = [grads[i] is not None for i in part.indices]
    part.idle = [k for k, there in enumerate(have) if not there]
    if not any(have):
        return [], []
    if not part.idle:
        return [point[i] for i in part.indices], [g for i in part.indices if (g := grads[i]) is not None]
    mine = [point[i] if there else point[i].detach().clone() for i, there in zip(part.indices, have, strict=True)]
    known = [grads[i] for i in part.indices]
    return mine, [torch.zeros_like(p) if g is None else g for g, p in zip(known, mine, strict=True)]
