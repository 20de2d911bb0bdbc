"""Hypergradient descent on a learning rate whose own step is learned too, from the lowest points of the lines it walks.

With Δ the last step, g' and g the gradients before and after it, c = cos(−g, Δ) over all tensors together, c' the
cosine before that, and α the rate of the rule beneath,

    log κ ← log κ + κ c' (c − κ c') / max(|c|, |c'|)    within [0.001, 1]
    log α ← log α + κ c

The second line is hypergradient descent in its dimensionless form (Baydin et al. 2018, 1703.04782, eq. 5-8, see
``hypergradient``). The first is descent too, along κ on ½ (c − κ c')²: κ becomes the share of a cosine that the next
one repeats. Where cosines are noise that is nothing, and the rate rests; while they agree it is near 1. The step of
this descent is κ, tied to itself, and over the larger cosine it is of a cosine's size as the rate's is. Nothing has a
unit. So, unlike a rate that is its own step (Chandra et al. 2022, 1909.13371), it neither stands still where κ is small
nor runs away where it is large.

With f' and f the losses before and after the step, and s' = −⟨g', Δ⟩ and s = ⟨g, Δ⟩ the slopes at its ends, a parabola
with these slopes rises by (s − s') / 2, and leaves its tangent by (s' + s) / 2. If f − f' is the former to a tenth of
the latter (Yuan 1991), and s' and s' + s are positive, the line is taken for this parabola, which is lowest at

    t = s' / (s' + s)    within [0.05, e]

of Δ, where the loss is f' − s' t + (s' + s) t² / 2 and the gradient g' + t (g − g'). The run goes on from there, for
which no evaluation is spent, and

    log α ← log α + κ log t

in the place of κ c: with κ = 1 the rate becomes the one that leads there. No factor is above e, as none is by cosines.

Any other line says less. A step along it overshot, and is taken back, if

    f − f' > rise · |f'|   and either   s − s' > f − f'   or   f − h > rise · |h|

with h the highest loss that a step was made from. So a loss that rose from one minibatch to another is no evidence,
unless the slopes account for half of that, or none was as high. What is kept of Δ, and of α, is the larger of f' / f
and t, within [0.05, 0.3]. The rule beneath makes no step then: its means of gradients stay as they are, and the
evaluation is spent. After five evaluations in a row that say so, of ever shorter steps, it is the data that changed,
and the run goes on from there. Of a step to where loss or gradient are not finite 0.05 is kept; of the rate 0.05 too
where a step was asked for and the guard left nothing of it.

A step from a positive loss f is no longer than −⟨g, Δ⟩ = f, at which its tangent is 0: no loss is expected below (the
step of Polyak 1987; a bound for stochastic losses in Loizou et al. 2021, 2002.10542). The rate is lowered to that.

Both cosines are measured once for all tensors, and the rate is one for all of them. One-step hypergradients are greedy
(Wu et al. 2018, 1803.02021). Measured in docs/depth.md.

State: ``{"own": the state beneath, "point": where the last step began, "grads": g', "begun": bool, "scale": log α over
its start, "step": log κ over its start, "cosine": c', "loss": f', "highest": h, "length": ‖Δ‖ of the step as it was
asked for, "gone": how far from the evaluated point it began}``; 0-dimensional tensors but for the first four and
"back", how often in a row it went back.
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
FARTHEST = math.e
"""The most of a step that a parabola is followed for."""
EXACT = 0.1
"""How far from a parabola's the losses at the ends of one may be, over half the difference of their slopes."""


class SelfTied(Rule):
    """Hypergradient descent that learns its own step too, and goes on from where its lines were lowest."""

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
        numbers = {name: zero.clone() for name in ("scale", "step", "cosine", "loss", "highest", "length", "gone")}
        return {
            "own": self._beneath[point[0].dtype].init(point),
            "point": [p.clone() for p in point],
            "grads": [torch.zeros_like(p) for p in point],
            "begun": False,
            "back": 0,
            **numbers,
        }

    def tells(self, state: State, hyper: Mapping[str, float]) -> dict[str, float]:
        """The rate α, and the step κ of its logarithm."""
        rate, step = (float(state[name].exp()) for name in ("scale", "step"))
        return {"rate": hyper["lr"] * rate, "step": min(hyper["kappa"] * step, FASTEST)}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step, from the lowest point of a parabola where there is one; or from an overshot point the way back."""
        loss, grads = trials[0].loss, trials[0].grads
        assert loss is not None and grads is not None
        way = [p - before for p, before in zip(point, state["point"], strict=True)]
        length, size, end = _length(way), _length(grads), inner(grads, way)
        if not bool((loss + size).isfinite()):
            return _back(way, length.new_tensor(LEAST), state)
        undone = state["begun"] and _undone(length, state, SEEN * _length(point))
        if undone or not state["begun"] or not bool(length * size > 0):
            scale = state["scale"] + math.log(LEAST) if undone else state["scale"]
            return self._ahead(trials[0], state | {"scale": scale}, rng)
        cosine, start, rise = -end / (size * length), -inner(state["grads"], way), loss - state["loss"]
        kappa, moved = self._tied(state, cosine)
        state, curved = state | moved, start + end
        lowest = start / curved
        if bool(start > 0) and bool(curved > 0) and bool((2 * (rise + start) - curved).abs() <= EXACT * curved):
            lowest = lowest.clamp(LEAST, FARTHEST)
            found, gone = _between(trials[0], state, way, lowest, start, curved)
            update, state = self._ahead(found, state | {"scale": state["scale"] + kappa * lowest.log()}, rng)
            return [g + u for g, u in zip(gone, update, strict=True)], state | {"gone": _length(gone)}
        if (
            state["back"] < TRIES
            and self._rose(loss, state["loss"])
            and (bool(end - start > rise) or self._rose(loss, state["highest"]))
        ):
            kept = torch.maximum(state["loss"] / loss, lowest).clamp(LEAST, MOST)
            return _back(way, kept, state)
        return self._ahead(trials[0], state | {"scale": state["scale"] + kappa * cosine}, rng)

    def _rose(self, loss: Tensor, before: Tensor) -> bool:
        """True if a loss is higher than one before it, by more than the share that is let pass."""
        return bool(loss - before > self.rise * before.abs())

    def _tied(self, state: State, cosine: Tensor) -> tuple[Tensor, State]:
        """κ after a cosine, and what the state has of it."""
        ends, first, last = (math.log(SLOWEST), math.log(FASTEST)), self.kappa.log().to(cosine.dtype), state["cosine"]
        before = (first + state["step"]).clamp(*ends)
        larger = torch.maximum(cosine.abs(), last.abs()).clamp_min(torch.finfo(cosine.dtype).tiny)
        after = (before + before.exp() * last * (cosine - before.exp() * last) / larger).clamp(*ends)
        return after.exp(), {"step": after - first, "cosine": cosine}

    def _ahead(self, trial: Trial, state: State, rng: Generator) -> tuple[Params, State]:
        """A step of the rule beneath from a trial's point, at the present rate."""
        point, loss, grads = trial
        assert loss is not None and grads is not None
        rule: Any = self._beneath[point[0].dtype]
        unit, own = rule(point, [trial], state["own"], rng)
        rate = self.lr / rule.lr * state["scale"].exp()
        update = [rate.to(u.dtype) * u for u in unit]
        loss, promised = loss.to(update[0].dtype), -inner(grads, update)
        if bool(promised > loss) and bool(loss > 0):
            share = loss / promised
            update, state = [share * u for u in update], state | {"scale": state["scale"] + share.log()}
        highest = torch.maximum(loss, state["highest"]) if state["begun"] else loss
        numbers = {"loss": loss, "highest": highest, "length": _length(update), "gone": 0 * loss}
        begin = {"point": [p.clone() for p in point], "grads": [g.clone() for g in grads]}
        return update, state | {"own": own, "begun": True, "back": 0, **begin, **numbers}


def _between(
    trial: Trial, state: State, way: Params, share: Tensor, start: Tensor, curved: Tensor
) -> tuple[Trial, Params]:
    """A trial of the point after a share of the last step, as a parabola has it, and the way there from its end."""
    assert trial.grads is not None
    gone = [(share - 1) * w for w in way]
    point = [p + g for p, g in zip(trial.point, gone, strict=True)]
    grads = [torch.lerp(a, b, share.to(a.dtype)) for a, b in zip(state["grads"], trial.grads, strict=True)]
    return Trial(point, state["loss"] - start * share + curved * share.square() / 2, grads), gone


def _undone(length: Tensor, state: State, seen: Tensor) -> bool:
    """True if the point is where it was when a step was asked for, by the length of the way from where that began."""
    return bool((length - state["gone"]).abs() <= seen) and bool((length - state["length"]).abs() > seen)


def _back(way: Params, kept: Tensor, state: State) -> tuple[Params, State]:
    """The way back from a step of which only a part is ``kept``, and of the rate as well."""
    return [(kept - 1) * w for w in way], state | {"scale": state["scale"] + kept.log(), "back": state["back"] + 1}


def _length(items: Params) -> Tensor:
    # The clamp cuts the root's infinite slope at 0.
    square = inner(items, items)
    return torch.where(square > 0, square.clamp_min(torch.finfo(square.dtype).tiny).sqrt(), square)
