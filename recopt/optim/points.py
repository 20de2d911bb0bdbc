"""A model's parameters as a tower sees them: real tensors of at least float32, and their gradients likewise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts.errors import RecoptError, StateError
from ..rules.shards import local, local_gradient

_LOW = (torch.float16, torch.bfloat16)


def points_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """``tensors`` themselves (local parts, if sharded); views as real where complex, copies in float32 where lower.

    Raises:
        RecoptError: for a tensor that is neither floating-point nor complex.
    """
    out = []
    for p in map(local, tensors):
        if p.is_complex():
            out.append(torch.view_as_real(p.detach()))
        elif p.dtype in _LOW:
            out.append(p.detach().float())
        elif p.is_floating_point():
            out.append(p.detach())
        else:
            raise RecoptError(f"A parameter of dtype {p.dtype} cannot be optimized: give floating-point ones.")
    return out


def write_back(points: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Round the float32 copies back into the parameters of lower precision; the others were moved in place."""
    for point, p in zip(points, tensors, strict=True):
        if p.dtype in _LOW:
            local(p).copy_(point)


def place(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Set ``tensors`` to ``values``, which are in the form of :func:`points_of`."""
    for value, p in zip(values, tensors, strict=True):
        own = local(p).detach()
        (torch.view_as_real(own) if own.is_complex() else own).copy_(value)


def gradients(found: Sequence[Tensor | None], tensors: Sequence[Tensor], signs: Sequence[float]) -> list[Tensor | None]:
    """Gradients in the form of :func:`points_of`, negated where ``signs`` are.

    Raises:
        StateError: for a sparse gradient.
    """
    out: list[Tensor | None] = []
    for g, p, sign in zip(found, tensors, signs, strict=True):
        if g is None:
            out.append(None)
            continue
        if g.layout is not torch.strided:
            raise StateError(
                f"A gradient of shape {tuple(p.shape)} is sparse ({g.layout}), which recopt.Optimizer does not take: "
                "use sparse=False in the embedding."
            )
        mine = local_gradient(g, p)
        real = torch.view_as_real(mine.resolve_conj()) if mine.is_complex() else mine
        real = real.float() if real.dtype in _LOW else real
        out.append((-real if sign < 0 else real).detach())
    return out
