"""Transforms of a signal before a strategy reads it: pure functions, one text for tensors and for plain numbers.

Each is ``(maths, signal, state, bound) -> (signal, state)``, of one task and any shapes; differentiable, so it acts
on the tape where the level is taped. ``bound`` is the product of the norms whose cosine the signal measures. A new one
is a function of its own, registered by :func:`transform`; a level asks for it by its name (``normalize: name``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contracts.strategy import State
from .registry import TRANSFORMS

CLIP_NORM = 1.0
RMS_DECAY = 0.99
LOG_SIGN_P = 10.0
CLIP_EACH, CLIP_KNOWN = 3.0, 10.0
"""The largest size over the running root mean square: of an entry as ``clip_each`` passes it on, and of what its mean
counts; ``rms_all`` takes the second for both."""


class TensorMaths:
    """The arithmetic of transforms on tensors."""

    def mean_square(self, g: Tensor) -> Tensor:
        return (g * g).mean()

    def mean(self, g: Tensor) -> Tensor:
        return g.mean()

    def total(self, signal: list[Tensor]) -> Tensor:
        return torch.stack([(g * g).sum() for g in signal]).sum()

    def zero(self, g: Tensor) -> Tensor:
        return torch.zeros_like(g.sum())

    def least(self, x: Tensor) -> Tensor:
        # The least number whose square root is exact enough: signals may be as small as 1e-12 and still mean something.
        return x.clamp_min(torch.finfo(x.dtype).tiny)

    def root(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def minimum(self, a: Tensor, b: Any) -> Tensor:
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp_max(b)

    def maximum(self, a: Tensor, b: Any) -> Tensor:
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp_min(b)

    def positive(self, test: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(test > 0, yes, no)

    def size(self, g: Tensor) -> Tensor:
        return g.abs()

    def sign(self, g: Tensor) -> Tensor:
        return g.sign()

    def log(self, x: Tensor) -> Tensor:
        return x.log()


class NumberMaths:
    """The same of plain numbers, each of which stands for a tensor of one entry."""

    tiny = 2.2250738585072014e-308

    def mean_square(self, g: float) -> float:
        return g * g

    def mean(self, g: float) -> float:
        return g

    def total(self, signal: list[float]) -> float:
        return sum(g * g for g in signal)

    def zero(self, g: float) -> float:
        return 0.0

    def least(self, x: float) -> float:
        return x if x > self.tiny else self.tiny

    def root(self, x: float) -> float:
        return math.sqrt(x)

    def minimum(self, a: float, b: float) -> float:
        return a if a < b else b

    def maximum(self, a: float, b: float) -> float:
        return a if a > b else b

    def positive(self, test: float, yes: float, no: float) -> float:
        return yes if test > 0 else no

    def size(self, g: float) -> float:
        return abs(g)

    def sign(self, g: float) -> float:
        return (g > 0) - (g < 0)

    def log(self, x: float) -> float:
        return math.log(x)


OF_TENSORS, OF_NUMBERS = TensorMaths(), NumberMaths()
Transform = Callable[[Any, list[Any], State, Any], tuple[list[Any], State]]
transform = TRANSFORMS.register
"""Registers a function as a transform under a name."""


@transform("none")
def none(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """The signal as it is."""
    return signal, state


@transform("clip")
def clip(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g · min(1, 1/‖g‖): the norm over all tensors is at most 1."""
    factor = maths.minimum(CLIP_NORM / maths.root(maths.least(maths.total(signal))), 1.0)
    return [g * factor for g in signal], state


@transform("clip_each")
def clip_each(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """Each entry within ±3 s, s the running root mean square per tensor of the signals before; otherwise as it is.

    The mean (decay 0.99, bias-corrected; of the first signal itself as long as there was none but zeros) counts
    entries up to 10 s only: one signal that is far off raises s by less than half, and yet a lasting rise by
    a factor of 10⁵ is followed within 40 steps. It bounds outliers and leaves the scale: whether the loss's scale
    matters depends on the rule that reads the signal (it does not to Adam).
    """
    weight = state["weight"] if "weight" in state else maths.zero(signal[0])
    before = state.get("square") or [maths.zero(g) for g in signal]
    out, square = [], []
    for v, g in zip(before, signal, strict=True):
        known = v / maths.least(weight)
        size = maths.least(maths.positive(known, known, maths.mean_square(g)))
        limit = CLIP_EACH * maths.root(size)
        out.append(maths.minimum(maths.maximum(g, -limit), limit))
        counted = maths.mean(maths.minimum(g * g, CLIP_KNOWN**2 * size))
        square.append(RMS_DECAY * v + (1 - RMS_DECAY) * counted)
    return out, {"weight": RMS_DECAY * weight + (1 - RMS_DECAY), "square": square}


@transform("rms")
def rms(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / sqrt(v̂), per tensor, v the running mean of mean(g²) (decay 0.99, bias-corrected); zero stays zero."""
    steps = state.get("steps", 0) + 1
    before = state.get("square") or [maths.zero(g) for g in signal]
    correction = 1 - RMS_DECAY**steps
    out, square = [], []
    for last, g in zip(before, signal, strict=True):
        v = RMS_DECAY * last + (1 - RMS_DECAY) * maths.mean_square(g)
        out.append(g / maths.root(maths.least(v / correction)))
        square.append(v)
    return out, {"steps": steps, "square": square}


@transform("rms_all")
def rms_all(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / sqrt(v), per tensor, v the mean of mean(g²) over all signals so far; zero stays zero.

    Unlike ``rms`` it does not forget, so that signals which fade as training goes on stay small: the rule that reads
    them moves less and less, as it would without normalizing, and yet the loss's scale does not matter. A signal
    more than ten times the root of v before it is shortened to that, so that one that is far off neither makes a
    wild step nor silences those after it.
    """
    steps = state.get("steps", 0) + 1
    before = state.get("square") or [maths.zero(g) for g in signal]
    out, square, least = [], [], maths.least
    for last, g in zip(before, signal, strict=True):
        size = maths.mean_square(g)
        counted = maths.positive(last, maths.minimum(size, CLIP_KNOWN**2 * last), size)
        v = last + (counted - last) / steps
        short = least(counted / least(size))
        out.append(g * maths.root(short / least(v)))
        square.append(v)
    return out, {"steps": steps, "square": square}


@transform("unit")
def unit(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / ‖g‖ over all tensors; zero stays zero."""
    length = maths.root(maths.least(maths.total(signal)))
    return [g / length for g in signal], state


@transform("cosine")
def cosine(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """g / (‖cotangents‖ ‖updates‖): for a log learning rate, the cosine of updates and what came after them."""
    if bound is None:
        raise ValueError("cosine needs a bound")
    scale = maths.least(bound)
    return [g / scale for g in signal], state


@transform("log_sign")
def log_sign(maths: Any, signal: list[Any], state: State, bound: Any) -> tuple[list[Any], State]:
    """log|g|/p, or 0 below e⁻ᵖ, with the sign of g: Andrychowicz et al. 2016, App. A, p = 10, as one number.

    The pair (log|g|/p, sign g) is folded into sign(g) · max(0, 1 + log|g|/p), which is 0 at e⁻ᵖ and 1 at 1.
    """
    floor = math.exp(-LOG_SIGN_P)
    return [maths.sign(g) * (1 + maths.log(maths.maximum(maths.size(g), floor)) / LOG_SIGN_P) for g in signal], state


def bounded(deltas: list[Any], sizes: list[Any], trust: float) -> list[Any]:
    """Tensors ``deltas`` with at most ``trust`` times the norm of what they move, all together.

    A hyperparameter's coordinate counts as 1: it is a logarithm or a logit, whose size says nothing.
    """
    tiny = torch.finfo(deltas[0].dtype).tiny
    length = torch.stack([(d * d).sum() for d in deltas]).sum().clamp_min(tiny).sqrt()
    squares = [(p * p).sum() if p.ndim else torch.ones_like(p) for p in sizes]
    limit = trust * torch.stack(squares).sum().clamp_min(tiny).sqrt()
    factor = (limit / length).clamp_max(1.0)
    return [d * factor for d in deltas]
