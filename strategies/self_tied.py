"""Hypergradient descent on a learning rate whose own step it moves as well, and which takes overshooting steps back.

With Δ the last step, g the gradient after it, c = cos(−g, Δ) over all tensors together, c' the cosine before that, and
α the rate of the rule beneath,

    log κ ← log κ + κ c c'    within [0.001, 1]
    log α ← log α + κ c

The second line is hypergradient descent in its dimensionless form (Baydin et al. 2018, 1703.04782, eq. 5-8, see
``hypergradient``); the first is the same for κ, tied to itself: the step of log κ is κ too. For log α moves by κ c',
and so the loss after it by −‖g‖ ‖Δ‖ c · c' for each unit of κ, of which the lengths are left out. Nothing in it has a
unit. So, unlike a rate that is its own step (Chandra et al. 2022, 1909.13371), it neither stands still where κ is small
nor runs away where it is large.

A step that overshot is taken back to where the line through it is lowest, and the rate is lowered with it. With f and
f' the losses after and before it, s' the slope −⟨g', Δ⟩ at its beginning and s = ⟨g, Δ⟩ at its end, it overshot if

    f − f' > rise · |f'|   and either   s − s' > f − f'   or   f − h > rise · |h|

with h the highest loss that a step was made from. On a parabola f − f' is (s − s') / 2. So a loss that rose from one
minibatch to another is no evidence, unless the slopes account for half of that, or none was as high. What is kept of Δ,
and of α, is the larger of f' / f and s' / (s' + s), the minimum of a parabola with these slopes, within [0.05, 0.3].
The rule beneath makes no step then: its means of gradients stay as they are, and the evaluation is spent. After five
evaluations in a row that say so, of ever shorter steps, it is the data that changed, and the run goes on from there.
Of a step to where loss or gradient are not finite 0.05 is kept; of the rate 0.05 too where a step was asked for and the
guard left nothing of it.

Both cosines are measured once for all tensors, and the rate is one for all of them. One-step hypergradients are greedy
(Wu et al. 2018, 1803.02021). Measured in docs/depth.md.

State: ``{"own": the state beneath, "point": where the last step began, "begun": bool, "scale": log α over its start,
"step": log κ over its start, "cosine": c', "loss": f', "highest": h, "slope" and "length": −⟨g', Δ⟩ and ‖Δ‖ of the
step as it was asked for}``; 0-dimensional tensors but for the first three and "back", how often in a row it went back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, Rule, State, Trial, option, positive, strategy
from recopt.toolkit.blocks import inner

SLOWEST, FASTEST = 1e-3, 1.0
"""Between these κ stays."""
DTYPES = (torch.float32, torch.float64)
SEEN = 1e-5
"""The length of a step over the point's from which on rounding cannot be why the point did not move."""
LEAST, MOST, TRIES = 0.05, 0.3, 5
"""The least and the most that is kept of a step that overshot, and how often in a row it is shortened."""


class SelfTied(Rule):
    """Hypergradient descent that moves its own step too and takes overshooting steps back, over a rule with a rate."""

    reads_loss = True
    vectorize = False

    lr = positive(0.001, "learning rate of the rule beneath, at the start")
    kappa = positive(0.7, "step of the rate's logarithm where the cosine is 1, at the start; within 0.001 and 1")
    base = option("adam", "the rule beneath, as in a stack; lr stands in the place of its own")
    rise = option(0.1, "the rise of the loss, relative to it, that a step is taken back for", least=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not SLOWEST <= self.kappa <= FASTEST:
            raise RecoptError(f"self-tied.kappa must be between {SLOWEST:g} and {FASTEST:g}, not {self.kappa:g}.")
        beneath = {dtype: strategy(self.base).to(dtype).requires_grad_(False) for dtype in DTYPES}
        rule = beneath[torch.float64]
        if not isinstance(rule, Rule) or rule.linear != "lr":
            raise RecoptError(
                "self-tied.base must be a rule whose every step is a multiple of its lr, as those of adam, sgd, "
                f"rmsprop and muon are; {self.base!r} is none."
            )
        self._beneath = beneath  # no parameters of this strategy

    def init(self, point: Params) -> State:
        """The state beneath, and no step yet."""
        zero = torch.zeros_like(point[0].sum())
        numbers = {name: zero.clone() for name in ("scale", "step", "cosine", "loss", "highest", "slope", "length")}
        return {
            "own": self._beneath[point[0].dtype].init(point),
            "point": [p.clone() for p in point],
            "begun": False,
            "back": 0,
            **numbers,
        }

    def tells(self, state: State, hyper: Mapping[str, float]) -> dict[str, float]:
        """The rate α, and the step κ of its logarithm."""
        rate, step = (float(state[name].exp()) for name in ("scale", "step"))
        return {"rate": hyper["lr"] * rate, "step": min(hyper["kappa"] * step, FASTEST)}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step; or where the last one overshot, the way back."""
        loss, grads = trials[0].loss, trials[0].grads
        assert loss is not None and grads is not None
        way = [p - before for p, before in zip(point, state["point"], strict=True)]
        length, size, end = _length(way), _length(grads), inner(grads, way)
        if not bool((loss + size).isfinite()):
            return _back(way, length.new_tensor(LEAST), state)
        if not state["begun"] or not bool(length * size > 0):
            undone = not bool(length > 0) and bool(state["length"] > SEEN * _length(point))
            scale = state["scale"] + math.log(LEAST) if undone else state["scale"]
            return self._ahead(point, trials, state | {"scale": scale}, rng)
        cosine, start = -end / (size * length), state["slope"] * length / state["length"]
        kappa, moved = self._tied(state, cosine)
        state = state | moved
        if (
            state["back"] < TRIES
            and self._rose(loss, state["loss"])
            and (bool(end - start > loss - state["loss"]) or self._rose(loss, state["highest"]))
        ):
            kept = torch.maximum(state["loss"] / loss, start / (start + end)).clamp(LEAST, MOST)
            return _back(way, torch.minimum(kept, (kappa * cosine).exp()), state)
        return self._ahead(point, trials, state | {"scale": state["scale"] + kappa * cosine}, rng)

    def _rose(self, loss: Tensor, before: Tensor) -> bool:
        """True if a loss is higher than one before it, by more than the share that is let pass."""
        return bool(loss - before > self.rise * before.abs())

    def _tied(self, state: State, cosine: Tensor) -> tuple[Tensor, State]:
        """κ after a cosine, and what the state has of it."""
        ends, first = (math.log(SLOWEST), math.log(FASTEST)), self.kappa.log().to(cosine.dtype)
        before = (first + state["step"]).clamp(*ends)
        after = (before + before.exp() * cosine * state["cosine"]).clamp(*ends)
        return after.exp(), {"step": after - first, "cosine": cosine}

    def _ahead(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """A step of the rule beneath, at the present rate."""
        rule: Any = self._beneath[point[0].dtype]
        trial = trials[0]
        assert trial.loss is not None and trial.grads is not None
        unit, own = rule(point, trials, state["own"], rng)
        rate = self.lr / rule.lr * state["scale"].exp()
        update = [rate.to(u.dtype) * u for u in unit]
        loss, length = trial.loss.to(update[0].dtype), _length(update)
        highest = torch.maximum(loss, state["highest"]) if state["begun"] else loss
        numbers = {"loss": loss, "highest": highest, "slope": -inner(trial.grads, update), "length": length}
        return update, state | {"own": own, "point": [p.clone() for p in point], "begun": True, "back": 0, **numbers}


def _back(way: Params, kept: Tensor, state: State) -> tuple[Params, State]:
    """The way back from a step of which only a part is ``kept``, and of the rate as well."""
    return [(kept - 1) * w for w in way], state | {"scale": state["scale"] + kept.log(), "back": state["back"] + 1}


def _length(items: Params) -> Tensor:
    # The clamp cuts the root's infinite slope at 0.
    square = inner(items, items)
    return torch.where(square > 0, square.clamp_min(torch.finfo(square.dtype).tiny).sqrt(), square)
