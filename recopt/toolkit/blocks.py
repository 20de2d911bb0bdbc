"""Building blocks for learned strategies: operations on coordinates, which are the columns of one matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .lstm import lstm_cell, plain_lstm_cell, tanh

__all__ = [
    "coordinates", "cosine", "flatten", "inner", "log_and_sign", "log_ratio", "lstm_cell", "lstm_layers", "norm",
    "orthogonalize", "plain_lstm_cell", "rms", "shaped", "tanh", "unflatten", "uniform_weights",
]  # fmt: skip

TINY = 1e-18
"""Added to lengths before dividing by them; its square is still a normal float32."""
A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic of :func:`orthogonalize`."""


def flatten(tensors: list[Tensor]) -> Tensor:
    """All coordinates of ``tensors``, in their order, as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """``flat`` cut into tensors of the shapes of ``like``."""
    parts = flat.split([p.numel() for p in like])
    return [part.reshape(p.shape) for part, p in zip(parts, like, strict=True)]


def coordinates(point: list[Tensor], spread: Sequence[Tensor]) -> Tensor:
    """All coordinates of ``point``, each in the unit of its tensor (``spread``), on the CPU in float64."""
    return flatten([p.double().cpu() for p in point]) / _units(point, spread)


def shaped(line: Tensor, like: list[Tensor], spread: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of :func:`coordinates`, with the shapes, dtypes and devices of ``like``."""
    parts = unflatten(line * _units(like, spread), like)
    return [x.to(p) for x, p in zip(parts, like, strict=True)]


def _units(like: list[Tensor], spread: Sequence[Tensor]) -> Tensor:
    """The unit of each coordinate of ``like``."""
    return flatten([s.double().cpu().expand(p.shape) for p, s in zip(like, spread, strict=True)])


def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """The inner product over all tensors together."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def rms(x: Tensor) -> Tensor:
    """The root mean square of all elements of ``x``; its derivative at zero is zero, not NaN."""
    return (x.square().mean() + TINY**2).sqrt()


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of a vector; its derivative at zero is zero, not NaN."""
    return (x @ x + TINY**2).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between two vectors, 0 where one of them is zero."""
    return (a / (norm(a) + TINY)) @ (b / (norm(b) + TINY))


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log |a/b| elementwise, within ±12, divided by 3: an input of about unit size for a network."""
    return ((a.abs() + TINY) / (b.abs() + TINY)).log().clamp(-12, 12) / 3


def log_and_sign(x: Tensor, p: float = 10.0) -> Tensor:
    """``(max(log|x| / p, -1), clip(e^p x, -1, 1))``, [2, n] of x [n]: size and sign of numbers of any size.

    Andrychowicz et al. 2016 (1606.04474, appendix A).
    """
    log = x.abs().clamp(min=math.exp(-p)).log() / p
    return torch.stack([log, (x * math.exp(p)).clamp(-1, 1)])


def uniform_weights(bound: float, *shape: int) -> nn.Parameter:
    """Weights drawn uniformly from [-bound, bound] by torch's global generator, as those of ``torch.nn.LSTM`` are."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def lstm_layers(
    x: Tensor, state: Mapping[str, Any], weights: Iterable[Tensor], biases: Iterable[Tensor]
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """One step of LSTM layers on one another (see :func:`lstm_cell`): the last layer's h, and the next state.

    Args:
        x: [inputs, n].
        state: ``{"h": [one [hidden, n] for each layer], "c": […]}``; what else it holds is left out of the next.
    """
    hs, cs = [], []
    for h, c, weight, bias in zip(state["h"], state["c"], weights, biases, strict=True):
        x, after = lstm_cell(x, h, c, weight, bias)
        hs.append(x)
        cs.append(after)
    return x, {"h": hs, "c": cs}


def orthogonalize(x: Tensor, rounds: int = 5) -> Tensor:
    """Matrices [..., a, b] with their singular values brought near 1 (within about 0.7 to 1.2).

    Newton-Schulz iteration with the quintic of Jordan et al. 2024 ("Muon"), X ← (aI + bR + cR²) X with R = X Xᵀ over
    the shorter side, from X / ‖X‖ on. See :func:`_factor` for matrices with a side at least twice the other.
    """
    tall, (short, long) = x.shape[-2] > x.shape[-1], sorted(x.shape[-2:])
    stretch = 5 if long >= 2 * short and _exact(x) else 1
    x = x / x.square().sum((-2, -1), keepdim=True).clamp(min=TINY**2).sqrt()
    out = x[None].flatten(0, -3)
    for done in range(0, rounds, stretch):
        square = out.mT @ out if tall else out @ out.mT
        if stretch == 1:
            by = torch.baddbmm(square, square, square, beta=B, alpha=C)
            out = torch.baddbmm(out, *((out, by) if tall else (by, out)), beta=A)
        else:
            by = _factor(square, min(stretch, rounds - done))
            out = out @ by if tall else by @ out
    return out.view_as(x)


def _factor(square: Tensor, rounds: int) -> Tensor:
    """Q [n, a, a] such that ``rounds`` of the iteration bring X to Q X, from R = X Xᵀ alone.

    All are polynomials of R, and commute: with P = aI + bR + cR² a round is Q ← P Q and R ← P R P. What R was rounded
    by grows by up to a² = 12 in each.
    """
    factor: Tensor | None = None
    for left in reversed(range(rounds)):
        by = torch.baddbmm(square, square, square, beta=B, alpha=C)
        if factor is None:
            factor = by + A * torch.eye(by.shape[-1], dtype=by.dtype, device=by.device)
        else:
            factor = torch.baddbmm(factor, by, factor, beta=A)
        for _ in range(2 if left else 0):
            square = torch.baddbmm(square, by, square, beta=A)
    assert factor is not None
    return factor


def _exact(x: Tensor) -> bool:
    """True where products of matrices are rounded as finely as float32, not by autocast, TF32 or the like."""
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(x.device.type):
        return False
    try:
        return x.dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # settings by device, which that question has no answer for
        return False
