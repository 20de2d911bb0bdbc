"""Normalizers: what a level does to its signal before its strategy reads it (one task, any shapes).

Each is a pure function ``(signal, state, bound) -> (signal, state)``, differentiable, so that it acts on
the tape where the level is taped. ``bound`` is the product of the norms whose cosine the signal measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Params = list[Tensor]
State = dict[str, Any]
Normalizer = Callable[[Params, State, Tensor | None], tuple[Params, State]]

CLIP_NORM = 1.0
RMS_DECAY = 0.99
LOG_SIGN_P = 10.0
CLIP_EACH, CLIP_KNOWN = 3.0, 10.0
"""The largest size over the running root mean square: of an entry as ``clip_each`` passes it on, and of what its mean
counts; ``rms_all`` takes the second for both."""


def _tiny(like: Tensor) -> float:
    # The least number whose square root is exact enough: signals may be as small as 1e-12 and still mean something.
    return torch.finfo(like.dtype).tiny


def _total(signal: Params) -> Tensor:
    return torch.stack([(g * g).sum() for g in signal]).sum().clamp_min(_tiny(signal[0])).sqrt()


def none(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """The signal as it is."""
    return signal, state


def clip(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """g · min(1, 1/‖g‖): the norm over all tensors is at most 1."""
    factor = (CLIP_NORM / _total(signal)).clamp_max(1.0)
    return [g * factor for g in signal], state


def unit(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """g / ‖g‖ over all tensors; zero stays zero."""
    length = _total(signal)
    return [g / length for g in signal], state


def rms(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """g / sqrt(v̂), per tensor, v the running mean of mean(g²) (decay 0.99), bias-corrected; zero stays zero."""
    steps = state.get("steps", 0) + 1
    before = state.get("square") or [torch.zeros_like(g.sum()) for g in signal]
    square = [RMS_DECAY * v + (1 - RMS_DECAY) * (g * g).mean() for v, g in zip(before, signal, strict=True)]
    correction = 1 - RMS_DECAY**steps
    out = [g / (v / correction).clamp_min(_tiny(g)).sqrt() for v, g in zip(square, signal, strict=True)]
    return out, {"steps": steps, "square": square}


def rms_all(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """g / sqrt(v), per tensor, v the mean of mean(g²) over all signals so far; zero stays zero.

    Unlike ``rms`` it does not forget, so that signals which fade as training goes on stay small: the rule that reads
    them moves less and less, as it would without normalizing, and yet the loss's scale does not matter. A signal
    more than ten times the root of v before it is shortened to that, so that one that is far off neither makes a
    wild step nor silences those after it.
    """
    steps = state.get("steps", 0) + 1
    before = state.get("square") or [torch.zeros_like(g.sum()) for g in signal]
    square, out = [], []
    for last, g in zip(before, signal, strict=True):
        size = (g * g).mean()
        counted = torch.where(last > 0, torch.minimum(size, CLIP_KNOWN**2 * last), size)
        v = last + (counted - last) / steps
        short = (counted / size.clamp_min(_tiny(g))).clamp_min(_tiny(g))
        out.append(g * (short / v.clamp_min(_tiny(g))).sqrt())
        square.append(v)
    return out, {"steps": steps, "square": square}


def clip_each(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """Each entry within ±3 s, s the running root mean square per tensor of the signals before; otherwise as it is.

    The mean (decay 0.99, bias-corrected; of the first signal itself as long as there was none but zeros) counts
    entries up to 10 s only: one signal that is far off raises s by less than half, and yet a lasting rise by
    a factor of 10⁵ is followed within 40 steps. It bounds outliers and leaves the scale: whether the loss's scale
    matters depends on the rule that reads the signal (it does not to Adam).
    """
    weight = state.get("weight", torch.zeros_like(signal[0].sum()))
    before = state.get("square") or [torch.zeros_like(g.sum()) for g in signal]
    out, square = [], []
    for v, g in zip(before, signal, strict=True):
        known = v / weight.clamp_min(_tiny(g))
        size = torch.where(known > 0, known, (g * g).mean()).clamp_min(_tiny(g))
        limit = CLIP_EACH * size.sqrt()
        out.append(torch.minimum(torch.maximum(g, -limit), limit))
        counted = torch.minimum(g * g, CLIP_KNOWN**2 * size)
        square.append(RMS_DECAY * v + (1 - RMS_DECAY) * counted.mean())
    return out, {"weight": RMS_DECAY * weight + (1 - RMS_DECAY), "square": square}


def cosine(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """g / (‖cotangents‖ ‖updates‖): for a log learning rate, the cosine of updates and what came after them."""
    if bound is None:
        raise ValueError("cosine needs a bound")
    scale = bound.clamp_min(_tiny(bound))
    return [g / scale for g in signal], state


def log_sign(signal: Params, state: State, bound: Tensor | None) -> tuple[Params, State]:
    """log|g|/p, or 0 below e⁻ᵖ, with the sign of g: Andrychowicz et al. 2016, App. A, p = 10, as one number.

    The pair (log|g|/p, sign g) is folded into sign(g) · max(0, 1 + log|g|/p), which is 0 at e⁻ᵖ and 1 at 1.
    """
    floor = math.exp(-LOG_SIGN_P)
    return [torch.sign(g) * (1 + g.abs().clamp_min(floor).log() / LOG_SIGN_P) for g in signal], state


NORMALIZERS: dict[str, Normalizer] = {
    "none": none, "clip": clip, "clip_each": clip_each, "rms": rms, "rms_all": rms_all, "unit": unit, "cosine": cosine,
    "log_sign": log_sign,
}  # fmt: skip
