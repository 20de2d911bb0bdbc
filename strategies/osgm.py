"""Online scaled gradients: a diagonal of rates and a momentum, both learned while it descends, and null steps.

Chu, Gao, Ye & Udell 2025 (2502.11229, HDM with heavy-ball momentum) and Gao et al. 2025 (2505.23081, 2509.11007: OSGM).
For losses without noise (all data in each batch): from the best point x so far, with g = ∇f(x) and d the last move,

    x' = x − P ∘ g + β d                                       is tried,
    h(P, β) = (f(x') − f(x)) / (‖g‖² + ¼ L² ‖d‖²)              is what P and β are to make small:
    ∂h/∂log P = −P ∘ g ∘ ∇f(x') / (‖g‖² + ¼ L² ‖d‖²),    ∂h/∂β = ⟨∇f(x'), d⟩ / (…),

log P and β each move against theirs by AdaGrad's rule (β within [0, ``MOST``]; P's sums of squares forget a share of
``FORGET`` a step), and x' is taken if f(x') < f(x). Otherwise x stays (a null step: d is then 0), and P and β shrink
by ``SHRINK`` and ``CALM``. So each step costs one loss and one gradient, at the same point.

Theirs moves P itself, in multiples of 1/L for a known L. Its logarithm needs no unit: coordinates that want a rate
10,000 times that of others have it soon. L is found on the way: ‖∇f(x') − g‖ / ‖x' − x‖ after a first move of length
``REACH`` (1 + ‖x‖), from which P starts as 1/L, then a running geometric mean (``FOLLOW``) over the moves taken. The
constants and defaults were chosen on synthetic sets (docs/measurements/optimizer.md).

The model holds x', and is measured and used at x (``eval_point``). On minibatches f(x') < f(x) says nothing: use it
with all data in each batch.

State: ``{"begun": 0 or 1, "probed": 0 or 1, "loss": f(x), "momentum": β, "turns": β's sum of squares,
"curvature": log L, "best": [x], "grad": [g], "way": [d], "scale": [log P], "square": [P's sums of squares]}``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, positive
from recopt.toolkit.blocks import inner

START, MOST = 0.95, 0.999
"""The first momentum, and the largest."""
FORGET, FOLLOW = 0.03, 0.1
"""The shares that new squares, and a new curvature, have in what is remembered of them."""
SHRINK, CALM = 0.9, 0.7
"""The factors of a null step on the rates and on the momentum."""
REACH = 1e-3
"""The length of the first move, relative to 1 + the norm of the start."""


def _least(x: Tensor) -> Tensor:
    """``x``, at least the least number above 0, whose root has a slope."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _minus(a: Params, b: Params) -> Params:
    return [x - y for x, y in zip(a, b, strict=True)]


def _choose(test: Tensor, yes: Params, no: Params) -> Params:
    return [torch.where(test, a, b) for a, b in zip(yes, no, strict=True)]


class Osgm(Strategy):
    """Gradient descent with a learned rate for each coordinate and a learned momentum; takes no step that ascends."""

    reads_loss = True

    lr = positive(0.5, "first step of the logarithms of the rates")
    momentum_lr = positive(3.0, "first step of the momentum")

    def init(self, point: Params) -> State:
        """Nothing tried yet; the point is the best so far."""
        nothing = torch.zeros_like(point[0].sum())
        numbers = {name: nothing.clone() for name in ("begun", "probed", "loss", "momentum", "turns", "curvature")}
        columns = {name: [torch.zeros_like(p) for p in point] for name in ("grad", "way", "scale", "square")}
        numbers["momentum"] = nothing + START
        return {**numbers, "best": [p.clone() for p in point], **columns}

    def eval_point(self, point: Params, state: State) -> Params:
        """x, the best point so far."""
        return list(state["best"])

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """The move from the trial x' to the next one, from the loss and the gradient at x'."""
        loss, grads = trials[0].loss, trials[0].grads
        assert loss is not None and grads is not None
        loss = loss.to(state["loss"])
        begun, probed = state["begun"] > 0, state["probed"] > 0
        taken = ~begun | (loss < state["loss"])
        learned = self._learned(grads, state, taken)
        curvature = self._curvature(point, grads, state, taken)
        best, grad = _choose(taken, point, state["best"]), _choose(taken, grads, state["grad"])
        way = [torch.where(taken & begun, p - x, 0.0) for p, x in zip(point, state["best"], strict=True)]
        # The first move is short; the rates after it are 1/L, as long as that leads no further than 1 + ‖x‖.
        room = 1 + _least(inner(best, best)).sqrt()
        longest = room.log() - 0.5 * _least(inner(grad, grad)).log()
        start = torch.where(begun, torch.minimum(-curvature, longest), longest + math.log(REACH))
        scale = [torch.where(probed, s, start.to(s).expand_as(s)) for s in learned["scale"]]
        trial = [x - s.exp() * g + learned["momentum"] * d for x, s, g, d in zip(best, scale, grad, way, strict=True)]
        one = torch.ones_like(state["begun"])
        flags = {
            "begun": one,
            "probed": state["begun"],
            "loss": torch.where(taken, loss, state["loss"]),
        }
        after = {**state, **learned, **flags, "curvature": curvature, "best": best, "grad": grad}
        return _minus(trial, point), {**after, "way": way, "scale": scale}

    def _learned(self, grads: Params, state: State, taken: Tensor) -> State:
        """log P and β after what came of them, with their sums of squares."""
        d, g, probed = state["way"], state["grad"], state["probed"] > 0
        size = _least(inner(g, g) + 0.25 * (2 * state["curvature"]).exp() * inner(d, d))
        signals = [-s.exp() * a * b / size for s, a, b in zip(state["scale"], g, grads, strict=True)]
        square = [
            torch.where(probed, (1 - FORGET) * v + h * h, v) for v, h in zip(state["square"], signals, strict=True)
        ]
        brake = torch.where(taken, 0.0, math.log(SHRINK))
        scale = [
            s - self.lr * h / _least(v).sqrt() + brake for s, h, v in zip(state["scale"], signals, square, strict=True)
        ]
        along = inner(grads, d) / size
        along = along.to(state["turns"])
        turns = state["turns"] + along * along
        momentum = (state["momentum"] - self.momentum_lr * along / _least(turns).sqrt()).clamp(0, MOST)
        momentum = torch.where(taken, momentum, CALM * momentum)
        return {"scale": scale, "square": square, "momentum": momentum, "turns": turns}

    def _curvature(self, point: Params, grads: Params, state: State, taken: Tensor) -> Tensor:
        """log L after the last move."""
        move, change = _minus(point, state["best"]), _minus(grads, state["grad"])
        found = 0.5 * (_least(inner(change, change)).log() - _least(inner(move, move)).log())
        found = found.to(state["curvature"])
        mean = torch.where(taken, torch.lerp(state["curvature"], found, FOLLOW), state["curvature"])
        first = torch.where(state["begun"] > 0, found, 0.0)
        return torch.where(state["probed"] > 0, mean, first)
