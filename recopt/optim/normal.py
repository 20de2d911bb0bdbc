"""The normalizers of recopt.core.normalize on a few plain numbers (one number is one tensor of theirs)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..contracts.strategy import State
from ..core.normalize import CLIP_EACH, CLIP_KNOWN, CLIP_NORM, LOG_SIGN_P, RMS_DECAY

TINY = 2.2250738585072014e-308


def normalized(kind: str, signal: Sequence[float], state: State, bound: float) -> list[float]:
    """``signal`` under the normalizer ``kind``; ``state`` is advanced in place, ``bound`` is read by ``cosine``."""
    if kind == "none":
        return list(signal)
    if kind in WITH_STATE:
        return WITH_STATE[kind](signal, state)
    if kind == "cosine":
        return [g / max(bound, TINY) for g in signal]
    if kind == "log_sign":
        floor = math.exp(-LOG_SIGN_P)
        return [math.copysign(1 + math.log(max(abs(g), floor)) / LOG_SIGN_P, g) if g else 0.0 for g in signal]
    length = math.sqrt(max(sum(g * g for g in signal), TINY))
    factor = 1 / length if kind == "unit" else min(CLIP_NORM / length, 1.0)
    return [g * factor for g in signal]


def _rms(signal: Sequence[float], state: State) -> list[float]:
    steps = state["steps"] = state.get("steps", 0) + 1
    square = state.setdefault("square", [0.0] * len(signal))
    correction, out = 1 - RMS_DECAY**steps, []
    for i, g in enumerate(signal):
        v = square[i] = RMS_DECAY * square[i] + (1 - RMS_DECAY) * (g * g)
        out.append(g / math.sqrt(max(v / correction, TINY)))
    return out


def _rms_all(signal: Sequence[float], state: State) -> list[float]:
    steps = state["steps"] = state.get("steps", 0) + 1
    square = state.setdefault("square", [0.0] * len(signal))
    out = []
    for i, g in enumerate(signal):
        v, size = square[i], g * g
        counted = min(size, CLIP_KNOWN**2 * v) if v > 0 else size
        v = square[i] = v + (counted - v) / steps
        out.append(g * math.sqrt(counted / max(size, TINY) / max(v, TINY)))
    return out


def _clip_each(signal: Sequence[float], state: State) -> list[float]:
    weight = state.get("weight", 0.0)
    square = state.setdefault("square", [0.0] * len(signal))
    out = []
    for i, g in enumerate(signal):
        known = square[i] / max(weight, TINY)
        size = max(known if known > 0 else g * g, TINY)
        limit = CLIP_EACH * math.sqrt(size)
        out.append(max(-limit, min(g, limit)))
        square[i] = RMS_DECAY * square[i] + (1 - RMS_DECAY) * min(g * g, CLIP_KNOWN**2 * size)
    state["weight"] = RMS_DECAY * weight + (1 - RMS_DECAY)
    return out


WITH_STATE = {"rms": _rms, "rms_all": _rms_all, "clip_each": _clip_each}
