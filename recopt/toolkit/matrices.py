"""Steps of matrices along orthogonalized means of gradients (Muon), their spectra, columns of matrices and others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .blocks import orthogonalize

__all__ = ["by_kind", "is_matrix", "orthogonal_steps", "spread"]

TOGETHER = 1 << 17
"""Elements of matrices worked on together on a CPU, whose caches hold them; other devices take what a call is given."""

Columns = Callable[..., tuple[Any, ...]]


def is_matrix(tensor: Tensor) -> bool:
    """True for two or more dimensions that, flattened from the second on, are more than one row and column."""
    return tensor.ndim > 1 and min(len(tensor), tensor.numel() // max(len(tensor), 1)) > 1


def by_kind(matrices: Columns, rest: Columns, *columns: Any) -> list[Any]:
    """Columns by one function of the matrices in ``columns``, and by another of the rest.

    Which those are, :func:`is_matrix` says; plain numbers are none. Each function takes as many columns as are given,
    and all give equally many.
    """
    if not isinstance(columns[0], list):
        return list(rest(*columns))
    are = [is_matrix(x) for x in columns[0]]
    found: dict[int, tuple[Tensor, ...]] = {}
    for kind, function in ((True, matrices), (False, rest)):
        places = [i for i, matrix in enumerate(are) if matrix is kind]
        if places:
            answers = function(*([column[i] for i in places] for column in columns))
            found |= dict(zip(places, zip(*answers, strict=True), strict=True))
    return [list(column) for column in zip(*(found[i] for i in range(len(are))), strict=True)]


def orthogonal_steps(means: list[Tensor], original: bool = False) -> list[Tensor]:
    """0.2 √max(A, B) · O for each mean of gradients of A rows and B columns, O its nearest semi-orthogonal matrix.

    That is about as long as a step of Adam at the same rate (Liu et al. 2025, 2502.16982, equation 4). Matrices of one
    shape are worked on together.

    Args:
        means: tensors of two or more dimensions, flattened from the second on.
        original: whether the factor is √max(1, A / B), as by Jordan et al. 2024.
    """
    alike: dict[Any, list[int]] = {}
    for i, mean in enumerate(means):
        alike.setdefault((mean.flatten(1).shape, mean.dtype, mean.device), []).append(i)
    steps: dict[int, Tensor] = {}
    for ((rows, columns), _, device), places in alike.items():
        size = math.sqrt(max(1.0, rows / columns)) if original else 0.2 * math.sqrt(max(rows, columns))
        most = max(1, TOGETHER // (rows * columns)) if device.type == "cpu" else len(places)
        for some in (places[i : i + most] for i in range(0, len(places), most)):
            found = size * orthogonalize(torch.stack([means[i].flatten(1) for i in some]))
            steps |= {i: step.view_as(means[i]) for i, step in zip(some, found, strict=True)}
    return [steps[i] for i in range(len(means))]


def spread(matrix: Tensor, rounds: int = 16) -> float:
    """The largest singular value over that of independent entries of the same rms, by ``rounds`` of power iteration."""
    rows, columns = matrix.shape
    matrix = functional.normalize(matrix.flatten(), dim=0).view(rows, columns)
    at = torch.randn(columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(matrix)
    for _ in range(rounds):
        at = functional.normalize(matrix.T @ (matrix @ at), dim=0)
    return float((matrix @ at).norm()) * math.sqrt(rows * columns) / (math.sqrt(rows) + math.sqrt(columns))
