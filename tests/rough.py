"""Shipped stacks from absurd rates, and data with batches that are bad, for tests that save after every step."""

from __future__ import annotations

import torch
from torch import Tensor

ALONE = (
    "sgd(momentum=0.9)", "adam", "muon", "paced", "paced(base=adam)", "paced(base=muon)", "paced(base=factored)",
    "rmsprop(momentum=0.5,centered=true)", "adagrad", "kesten", "schedule-free", "prodigy", "dog", "dowg", "cocob",
    "mechanic", "osgm", "self-tied", "lstm", "rnnprop", "mlp-rule", "hierarchical", "residual", "blend", "meta-lstm",
    "srwm",
)  # fmt: skip
WILD = (
    "sgd(lr=3)",
    "adam(lr=2)",
    "rmsprop(momentum=0.5,lr=3)",
    "schedule-free(lr=3)",
    "prodigy(lr=50)",
    "adagrad(lr=9)",
)
TOWERS = [
    f"{rule}/{above}" for rule in WILD for above in ("adam[*]", "adagrad(lr=1)[lr]", "kesten[lr]", "hypergradient")
]
HIGH = [
    "adam(lr=2)/adam/adam",
    "sgd(lr=3)/lstm[lr]",
    "adam(lr=2)/prodigy[lr]",
    "schedule-free(lr=3)/kesten[lr]/sgd",
    "prodigy(lr=50)/sgd/sgd",
    "lstm/adam",
]
STEPS, AFTER = 14, 2
BAD = {6: (1.0, torch.nan), 9: (1e3, 1.0), 11: (1.0, torch.nan), 12: (1.0, torch.nan)}
"""By step, factors on inputs and targets: one batch is bad, one is far off, two bad ones are the point's fault."""


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a step."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
    one, other = BAD.get(number, (1.0, 1.0))
    inputs, targets = one * inputs, other * inputs.sum(1, keepdim=True)
    return inputs, targets
