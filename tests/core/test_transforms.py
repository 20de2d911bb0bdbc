"""Transforms of signals: their formulas, and what they do with zeros and with signals of any size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recopt.levels.transforms import TRANSFORMS

SIGNAL = [torch.tensor([3.0, 0.0], dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)]


def of(name: str, signal: list[Tensor], bound: float | None = None) -> list[Tensor]:
    at = None if bound is None else torch.tensor(bound, dtype=signal[0].dtype)
    return TRANSFORMS[name](signal, {}, at)[0]


def flat(signal: list[Tensor]) -> list[float]:
    return torch.cat([g.flatten() for g in signal]).tolist()


def test_formulas() -> None:
    assert flat(of("none", SIGNAL)) == [3.0, 0.0, -4.0]
    assert flat(of("unit", SIGNAL)) == pytest.approx([0.6, 0.0, -0.8])
    assert flat(of("clip", SIGNAL)) == pytest.approx([0.6, 0.0, -0.8])
    assert flat(of("clip", [g / 10 for g in SIGNAL])) == pytest.approx([0.3, 0.0, -0.4])
    assert flat(of("cosine", SIGNAL, 8.0)) == pytest.approx([0.375, 0.0, -0.5])
    assert flat(of("clip_each", SIGNAL)) == [3.0, 0.0, -4.0]
    assert flat(of("rms", SIGNAL)) == pytest.approx([math.sqrt(2), 0.0, -1.0])
    assert flat(of("rms_all", SIGNAL)) == pytest.approx([math.sqrt(2), 0.0, -1.0])
    assert flat(of("log_sign", [torch.tensor([1.0, -math.exp(-5), 1e-9])])) == pytest.approx([1.0, -0.5, 0.0])


def test_rms_is_a_corrected_running_mean() -> None:
    state, squares = {}, []
    for k in range(1, 6):
        (out,), state = TRANSFORMS["rms"]([torch.tensor([float(k)], dtype=torch.float64)], state, None)
        squares.append(float(k) ** 2)
        weights = [0.01 * 0.99 ** (k - 1 - i) for i in range(k)]
        mean = sum(w * s for w, s in zip(weights, squares, strict=True)) / (1 - 0.99**k)
        assert float(out) == pytest.approx(k / math.sqrt(mean), rel=1e-12)


def test_rms_all_is_a_mean_over_all_that_was() -> None:
    state, squares = {}, []
    for value in (2.0, -1.0, 3.0, 0.5, -0.1):
        signal = [torch.tensor([value, 0.0], dtype=torch.float64)]
        (out,), state = TRANSFORMS["rms_all"](signal, state, None)
        squares.append(value**2 / 2)
        mean = sum(squares) / len(squares)
        assert out.tolist() == pytest.approx([value / math.sqrt(mean), 0.0], rel=1e-12)


@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_a_plain_number_is_read_as_a_tensor_is(name: str) -> None:
    number, tensor = {}, {}
    for value in (0.0, 2.0, -0.3, 1e-170, 40.0, -1e9, 1e-3, 0.0, 5.0):
        (one,), number = TRANSFORMS[name]([value], number, 3.0)
        signal, bound = torch.tensor(value, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
        (other,), tensor = TRANSFORMS[name]([signal], tensor, bound)
        assert one == pytest.approx(float(other), rel=1e-14, abs=0.0), value


def test_signals_that_fade_stay_small_under_rms_all_alone() -> None:
    left = {}
    for name in ("rms", "rms_all"):
        state = {}
        for step in range(2000):
            size = torch.tensor(1.0 if step < 200 else 0.01, dtype=torch.float64)
            (out,), state = TRANSFORMS[name]([size], state, None)
        left[name] = float(out)
    assert left["rms"] == pytest.approx(1.0, rel=1e-3)
    assert left["rms_all"] == pytest.approx(0.01 / math.sqrt((200 + 1800 * 1e-4) / 2000), rel=1e-9)


def test_a_signal_that_is_far_off_is_shortened_and_does_not_silence_the_rest() -> None:
    rms_all, state = TRANSFORMS["rms_all"], {}
    for _ in range(100):
        _, state = rms_all([torch.tensor(1.0, dtype=torch.float64)], state, None)
    (out,), state = rms_all([torch.tensor(-1e9, dtype=torch.float64)], state, None)
    assert float(out) == pytest.approx(-10 / math.sqrt(200 / 101), rel=1e-12)
    (out,), state = rms_all([torch.tensor(1.0, dtype=torch.float64)], state, None)
    assert float(out) == pytest.approx(1 / math.sqrt(201 / 102), rel=1e-12)


def test_an_entry_that_is_far_off_is_clipped_and_hardly_remembered() -> None:
    clip_each, state = TRANSFORMS["clip_each"], {}
    usual = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    for _ in range(5):
        (out,), state = clip_each([usual], state, None)
        assert torch.equal(out, usual)
    (out,), state = clip_each([torch.tensor([1.0, -1e6, 0.5, -0.5], dtype=torch.float64)], state, None)
    assert out.tolist() == pytest.approx([1.0, -3.0, 0.5, -0.5], rel=1e-12)
    # Within 10 times the root mean square: √((0.05 · 1 + 0.0096 · 25.375) / 0.06) in place of 2 · 10⁵.
    (out,), state = clip_each([usual * 100], state, None)
    weight = 1 - 0.99**6
    mean = (0.99 * (1 - 0.99**5) + 0.01 * (1 + 100 + 0.25 + 0.25) / 4) / weight
    assert out.tolist() == pytest.approx([3 * math.sqrt(mean) * s for s in (1, -1, 1, -1)], rel=1e-12)


def test_a_lasting_rise_is_followed() -> None:
    clip_each, state = TRANSFORMS["clip_each"], {}
    for k in range(60):
        size = 1.0 if k < 20 else 1e5
        (out,), state = clip_each([torch.tensor(size, dtype=torch.float64)], state, None)
        assert float(out) <= size
    assert float(out) == 1e5


def test_signals_of_zero_at_first_do_not_stop_what_comes() -> None:
    clip_each, state = TRANSFORMS["clip_each"], {}
    for _ in range(10):
        _, state = clip_each([torch.zeros(2)], state, None)
    (out,), _ = clip_each([torch.tensor([5.0, -1.0])], state, None)
    assert out.tolist() == [5.0, -1.0]


@pytest.mark.parametrize("power", [-12, 12])
def test_clip_each_keeps_the_scale(power: int) -> None:
    clip_each, states = TRANSFORMS["clip_each"], [{}, {}]
    for k in range(1, 20):
        signal = [torch.tensor([1.0, -float(k**3), 2.0], dtype=torch.float64)]
        (a,), states[0] = clip_each(signal, states[0], None)
        (b,), states[1] = clip_each([signal[0] * 10.0**power], states[1], None)
        torch.testing.assert_close(b, a * 10.0**power, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["clip_each", "rms", "rms_all"])
def test_running_normalizers_are_differentiable_through_their_past(name: str) -> None:
    torch.manual_seed(1)
    scale = torch.tensor([1.0, 0.5, 8.0, 2.0], dtype=torch.float64)[:, None]
    signals = (scale * torch.randn(4, 6, dtype=torch.float64)).requires_grad_()
    active = []

    def last(signals: Tensor) -> Tensor:
        state, out = {}, []
        for signal in signals:
            found, state = TRANSFORMS[name]([signal], state, None)
            out += found
            active.append(not torch.equal(found[0], signal))
        return torch.stack(out)

    assert torch.autograd.gradcheck(last, (signals,))
    assert any(active)


@pytest.mark.parametrize("name", ["unit", "rms", "rms_all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("power", [-12, -6, 6, 12])
def test_scale_free(name: str, dtype: torch.dtype, power: int) -> None:
    signal = [g.to(dtype) for g in SIGNAL]
    scaled = flat(of(name, [g * 10.0**power for g in signal]))
    assert scaled == pytest.approx(flat(of(name, signal)), rel=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_zero_stays_zero_with_a_finite_slope(name: str) -> None:
    zero = [torch.zeros(3, dtype=torch.float64, requires_grad=True)]
    out = of(name, zero, 0.0)
    assert flat(out) == [0.0] * 3
    (slope,) = torch.autograd.grad(out[0].sum(), zero)
    assert not slope.isnan().any()


def test_cosine_needs_its_bound() -> None:
    with pytest.raises(ValueError, match="bound"):
        of("cosine", SIGNAL)
