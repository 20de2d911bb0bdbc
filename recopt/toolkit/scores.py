"""Scores of trials, for zero-order strategies: plain numbers that can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts.strategy import Trial


def scores(trials: Sequence[Trial]) -> Tensor:
    """The losses of ``trials`` as one vector, float64 on the CPU; infinity for each that is not finite or not known."""
    found = [torch.inf if t.loss is None else float(t.loss) for t in trials]
    values = torch.tensor(found, dtype=torch.float64)
    return torch.where(values.isfinite(), values, torch.inf)


def ranks(values: Tensor) -> Tensor:
    """The rank of each of ``values``, from 0 for the least; the mean rank where several are equal."""
    less = (values[:, None] > values).sum(1).double()
    return less + ((values[:, None] == values).sum(1) - 1) / 2
