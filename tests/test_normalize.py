"""Normalizers: their formulas, and what they do with zeros and with signals of any size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recopt.normalize import NORMALIZERS

SIGNAL = [torch.tensor([3.0, 0.0], dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)]


def of(name: str, signal: list[Tensor], bound: float | None = None) -> list[Tensor]:
    at = None if bound is None else torch.tensor(bound, dtype=signal[0].dtype)
    return NORMALIZERS[name](signal, {}, at)[0]


def flat(signal: list[Tensor]) -> list[float]:
    return torch.cat([g.flatten() for g in signal]).tolist()


def test_formulas() -> None:
    assert flat(of("none", SIGNAL)) == [3.0, 0.0, -4.0]
    assert flat(of("unit", SIGNAL)) == pytest.approx([0.6, 0.0, -0.8])
    assert flat(of("clip", SIGNAL)) == pytest.approx([0.6, 0.0, -0.8])
    assert flat(of("clip", [g / 10 for g in SIGNAL])) == pytest.approx([0.3, 0.0, -0.4])
    assert flat(of("cosine", SIGNAL, 8.0)) == pytest.approx([0.375, 0.0, -0.5])
    assert flat(of("rms", SIGNAL)) == pytest.approx([math.sqrt(2), 0.0, -1.0])
    assert flat(of("log_sign", [torch.tensor([1.0, -math.exp(-5), 1e-9])])) == pytest.approx([1.0, -0.5, 0.0])


def test_rms_is_a_corrected_running_mean() -> None:
    state, squares = {}, []
    for k in range(1, 6):
        (out,), state = NORMALIZERS["rms"]([torch.tensor([float(k)], dtype=torch.float64)], state, None)
        squares.append(float(k) ** 2)
        weights = [0.01 * 0.99 ** (k - 1 - i) for i in range(k)]
        mean = sum(w * s for w, s in zip(weights, squares, strict=True)) / (1 - 0.99**k)
        assert float(out) == pytest.approx(k / math.sqrt(mean), rel=1e-12)


@pytest.mark.parametrize("name", ["unit", "rms"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("power", [-12, -6, 6, 12])
def test_scale_free(name: str, dtype: torch.dtype, power: int) -> None:
    signal = [g.to(dtype) for g in SIGNAL]
    scaled = flat(of(name, [g * 10.0**power for g in signal]))
    assert scaled == pytest.approx(flat(of(name, signal)), rel=1e-5)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_zero_stays_zero_with_a_finite_slope(name: str) -> None:
    zero = [torch.zeros(3, dtype=torch.float64, requires_grad=True)]
    out = of(name, zero, 0.0)
    assert flat(out) == [0.0] * 3
    (slope,) = torch.autograd.grad(out[0].sum(), zero)
    assert not slope.isnan().any()


def test_cosine_needs_its_bound() -> None:
    with pytest.raises(ValueError, match="bound"):
        of("cosine", SIGNAL)
