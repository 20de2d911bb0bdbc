"""Building blocks for learned strategies: coordinates as the columns of one matrix, and what acts on them."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-18
"""Added to lengths before dividing by them; its square is still a normal float32."""


def flatten(tensors: list[Tensor]) -> Tensor:
    """All coordinates of ``tensors``, in their order, as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """``flat`` cut into tensors of the shapes of ``like``."""
    parts = flat.split([p.numel() for p in like])
    return [part.reshape(p.shape) for part, p in zip(parts, like, strict=True)]


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step of n independent columns: the new h and c, each [hidden, n].

    Gates are in the order of ``torch.nn.LSTM`` (i, f, g, o), each a block of contiguous rows. One product and
    one sigmoid serve all four: tanh(x) = 2σ(2x) - 1, so gate g's weights are doubled first. On CPU, tanh costs
    many times what sigmoid does.

    Args:
        x: [inputs, n].
        h, c: [hidden, n].
        weight: [4 hidden, inputs + hidden].
        bias: [4 hidden].
    """
    hidden = h.shape[0]
    double = torch.ones_like(bias).unflatten(0, (4, hidden))
    double = (double + double.new_tensor([0.0, 0.0, 1.0, 0.0])[:, None]).flatten()[:, None]
    gates = torch.sigmoid((weight * double) @ torch.cat([x, h]) + bias[:, None] * double)
    i, f, g, o = gates.split(hidden)
    c = f * c + i * (2 * g - 1)
    return o * tanh(c), c


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent as 2σ(2x) - 1, several times faster than ``torch.tanh`` on CPU."""
    return 2 * torch.sigmoid(2 * x) - 1


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


def orthogonalize(x: Tensor, rounds: int = 5) -> Tensor:
    """Matrices [..., a, b] with their singular values brought near 1 (within about 0.7 to 1.2).

    Newton-Schulz iteration with the quintic of Jordan et al. 2024 ("Muon"); the product of a step is
    over the shorter side.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-2, -1) if tall else x
    x = x / x.square().sum((-2, -1), keepdim=True).clamp(min=TINY**2).sqrt()
    for _ in range(rounds):
        square = x @ x.transpose(-2, -1)
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.transpose(-2, -1) if tall else x
