"""Meta-losses: how a window's losses score the strategy, with the derivative by each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def score(objective: str, losses: Sequence[Tensor], start: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """The meta-loss J of the losses f₁ … f_T after the window's updates, and ∂J/∂f₀, ∂J/∂f₁ … ∂J/∂f_T.

    Args:
        objective: ``mean`` (Σf/T), ``sum``, ``last`` (f_T), ``improvement`` (log f_T − log f₀) or
            ``steps_to: X`` (the first t with f_t ≤ X, T + 1 if there is none; no derivative).
        losses: each 0-dimensional, or over tasks; J and the derivatives have that shape.
        start: f₀, the loss before the first update; f_T stands in where it is not known.
    """
    last = losses[-1]
    zero, one = torch.zeros_like(last.detach()), torch.ones_like(last.detach())
    count = len(losses)
    if objective == "mean":
        return torch.stack(list(losses)).mean(0), [zero, *[one / count] * count]
    if objective == "sum":
        return torch.stack(list(losses)).sum(0), [zero, *[one] * count]
    if objective == "last":
        return last, [zero] * count + [one]
    if objective == "improvement":
        before = last.detach() if start is None else start
        return last.log() - before.log(), [-1 / before, *[zero] * (count - 1), 1 / last]
    target = float(objective.partition(":")[2])
    steps = one * (count + 1)
    for t in range(count, 0, -1):
        steps = torch.where(losses[t - 1] <= target, one * t, steps)
    return steps, [zero] * (count + 1)
