"""Transforms of a signal before a strategy reads it: pure functions, one text for tensors and for plain numbers.

Each is ``(signal, state, bound) -> (signal, state)``, of one task and any shapes; differentiable, so it acts
on the tape where the level is taped. ``bound`` is the product of the norms whose cosine the signal measures. A new one
is a function of its own, registered by :func:`transform`; a level asks for it by its name (``normalize: name``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contracts.strategy import State
from .registry import TRANSFORMS

LEAST = sys.float_info.min
CLIP_NORM = 1.0
RMS_DECAY = 0.99
LOG_SIGN_P = 10.0
CLIP_EACH, CLIP_KNOWN = 3.0, 10.0
"""The largest size over the running root mean square: of an entry as ``clip_each`` passes it on, and of what its mean
counts; ``rms_all`` takes the second for both."""


def _mean(g: Any) -> Any:
    return g.mean() if isinstance(g, Tensor) else g


def _norm(signal: list[Any]) -> Any:
    """The norm of all tensors together, at least the root of the least number above 0."""
    squares: list[Any] = [g * g for g in signal]
    return _root(
        _least(torch.stack([s.sum() for s in squares]).sum() if isinstance(squares[0], Tensor) else sum(squares))
    )


def _zero(g: Any) -> Any:
    return torch.zeros_like(g.sum()) if isinstance(g, Tensor) else 0.0


def _least(x: Any) -> Any:
    """``x``, or the least number above 0: signals may be as small as 1e-12 and still mean something."""
    if isinstance(x, Tensor):
        return x.clamp_min(torch.finfo(x.dtype).tiny)
    return x if x > LEAST else LEAST


def _root(x: Any) -> Any:
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def _log(x: Any) -> Any:
    return x.log() if isinstance(x, Tensor) else math.log(x)


def _sign(x: Any) -> Any:
    return x.sign() if isinstance(x, Tensor) else (x > 0) - (x < 0)


def _smaller(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp_max(b)
    return a if a < b else b


def _known(test: Any, yes: Any, no: Any) -> Any:
    """``yes`` where ``test`` is above 0, else ``no``."""
    return torch.where(test > 0, yes, no) if isinstance(test, Tensor) else yes if test > 0 else no


Transform = Callable[[list[Any], State, Any], tuple[list[Any], State]]
transform = TRANSFORMS.register
"""Registers a function as a transform under a name."""


@transform("none")
def none(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """The signal as it is."""
    return signal, state


@transform("clip")
def clip(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g · min(1, 1/‖g‖): the norm over all tensors is at most 1."""
    factor = _smaller(CLIP_NORM / _norm(signal), 1.0)
    return [g * factor for g in signal], state


@transform("clip_each")
def clip_each(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """Each entry within ±3 s, s the running root mean square per tensor of the signals before; otherwise as it is.

    The mean (decay 0.99, bias-corrected; of the first signal itself as long as there was none but zeros) counts
    entries up to 10 s only: one signal that is far off raises s by less than half, and yet a lasting rise by
    a factor of 10⁵ is followed within 40 steps. It bounds outliers and leaves the scale: whether the loss's scale
    matters depends on the rule that reads the signal (it does not to Adam).
    """
    weight = state["weight"] if "weight" in state else _zero(signal[0])
    before = state.get("square") or [_zero(g) for g in signal]
    out, square = [], []
    for v, g in zip(before, signal, strict=True):
        known = v / _least(weight)
        size = _least(_known(known, known, _mean(g * g)))
        limit = CLIP_EACH * _root(size)
        out.append(_smaller(-_smaller(-g, limit), limit))
        counted = _mean(_smaller(g * g, CLIP_KNOWN**2 * size))
        square.append(RMS_DECAY * v + (1 - RMS_DECAY) * counted)
    return out, {"weight": RMS_DECAY * weight + (1 - RMS_DECAY), "square": square}


@transform("rms")
def rms(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / sqrt(v̂), per tensor, v the running mean of mean(g²) (decay 0.99, bias-corrected); zero stays zero."""
    steps = state.get("steps", 0) + 1
    before = state.get("square") or [_zero(g) for g in signal]
    correction = 1 - RMS_DECAY**steps
    out, square = [], []
    for last, g in zip(before, signal, strict=True):
        v = RMS_DECAY * last + (1 - RMS_DECAY) * _mean(g * g)
        out.append(g / _root(_least(v / correction)))
        square.append(v)
    return out, {"steps": steps, "square": square}


@transform("rms_all")
def rms_all(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / sqrt(v), per tensor, v the mean of mean(g²) over all signals so far; zero stays zero.

    Unlike ``rms`` it does not forget, so that signals which fade as training goes on stay small: the rule that reads
    them moves less and less, as it would without normalizing, and yet the loss's scale does not matter. A signal
    more than ten times the root of v before it is shortened to that, so that one that is far off neither makes a
    wild step nor silences those after it.
    """
    steps = state.get("steps", 0) + 1
    before = state.get("square") or [_zero(g) for g in signal]
    out, square = [], []
    for last, g in zip(before, signal, strict=True):
        read, v = (_tensor_over_all if isinstance(g, Tensor) else _number_over_all)(g, last, steps)
        out.append(read)
        square.append(v)
    return out, {"steps": steps, "square": square}


def _tensor_over_all(g: Tensor, last: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """``rms_all`` of one tensor, and v after it; ``last`` before."""
    size = _mean(g * g)
    counted = _known(last, _smaller(size, CLIP_KNOWN**2 * last), size)
    v = last + (counted - last) / steps
    return g * _root(_least(counted / _least(size)) / _least(v)), v


def _number_over_all(g: float, last: float, steps: int) -> tuple[float, float]:
    """The same of a plain number, without a call for each operation: every level of a tower asks for it at a step."""
    size, most = g * g, CLIP_KNOWN**2 * last
    counted = (size if size < most else most) if last > 0 else size
    v = last + (counted - last) / steps
    kept = counted / (size if size > LEAST else LEAST)
    return g * math.sqrt((kept if kept > LEAST else LEAST) / (v if v > LEAST else LEAST)), v


@transform("unit")
def unit(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / ‖g‖ over all tensors; zero stays zero."""
    length = _norm(signal)
    return [g / length for g in signal], state


@transform("cosine")
def cosine(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / (‖cotangents‖ ‖updates‖): for a log learning rate, the cosine of updates and what came after them."""
    if bound is None:
        raise ValueError("cosine needs a bound")
    scale = _least(bound)
    return [g / scale for g in signal], state


@transform("cosines")
def cosines(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """c · c', over a level that moves a rate by κ c: the derivative by κ in units in which that by log rate is c.

    A cosine of the level's own would be a sign, as what it measures is a number. Here ``bound`` is κ times that of c.
    """
    return cosine(signal, state, bound)


@transform("log_sign")
def log_sign(signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """log|g|/p, or 0 below e⁻ᵖ, with the sign of g: Andrychowicz et al. 2016, App. A, p = 10, as one number.

    The pair (log|g|/p, sign g) is folded into sign(g) · max(0, 1 + log|g|/p), which is 0 at e⁻ᵖ and 1 at 1.
    """
    floor = math.exp(-LOG_SIGN_P)
    sizes = [-_smaller(-abs(g), -floor) for g in signal]
    return [_sign(g) * (1 + _log(s) / LOG_SIGN_P) for g, s in zip(signal, sizes, strict=True)], state


def bounded(deltas: list[Any], sizes: list[Any], trust: float) -> list[Any]:
    """Tensors ``deltas`` with at most ``trust`` times the norm of what they move, all together.

    A hyperparameter's coordinate counts as 1: it is a logarithm or a logit, whose size says nothing.
    """
    limit = trust * _norm([p if p.ndim else torch.ones_like(p) for p in sizes])
    factor = (limit / _norm(deltas)).clamp_max(1.0)
    return [d * factor for d in deltas]
