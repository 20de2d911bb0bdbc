"""Half Adam, half Muon, without a rate to choose: sizes follow from the weights, the course from the run's length.

With rms the root mean square of a tensor's weights at the start, L the number of matrices among the tensors, and
N = ``steps`` the length of the run (where it is told), step t = 1, 2, … of a tensor is

    rate = lr · size · gain · f(t) · (1 − calm · noise)
    θ ← θ − rate · weight_decay · θ − rate · u,    u = (a + O · rms(a) / rms(O)) / √2 for matrices, a for the rest
    a = (m / (1 − β1ᵗ)) / (√v / √(1 − β2ᵗ) + eps),    O = β1 · m + (1 − β1) · g, orthogonalized (see muon)
    size = 0.3 · min(rms, 0.085) · deep · trained · embedded   (a tensor of zeros counts as one of rms 0.085)
    f(t) = min(t / (0.05 N), 1, (N + 1 − t) / (N − h)), h = min(100, N / 2);   without N:  min(t / 20, 1, √(100 / t))

- A share of the weights' size is right from 30 inputs a unit to thousands, where Adam's best rate falls a hundredfold.
- ``deep`` is s = min(1, 6 / L) where something normalizes in between: a vector whose mean is twice its deviation, as
  scales of norms are. Otherwise the errors of all layers multiply, and it is s · max(s², 0.1), but not with
  ``base=muon``, whose steps have no large singular value. Where N is told, it goes back to s as far as, in step 2,
  vectors are seen to be added to common streams, as biases of residual blocks are (:mod:`recopt.toolkit.sizes`).
- ``trained`` is 1 for weights as they are initialized and 0.1 for those that are trained already. Matrices of
  independent entries have no singular value above rms · (√rows + √columns) (Marchenko & Pastur 1967), those of trained
  networks have (Martin & Mahoney 2021, 1810.01075): with s the largest over that bound, it is 0.1 to the power of
  min(1, max(0, (s − 1.05) / 0.1)), the power a mean over the entries of all matrices.
- ``embedded`` is 1 unless the first matrices, the embeddings, begin of another size than layers, and most do not, with
  c = 1 / √(3 · columns): rms < 0.6 · min(0.085, c), or above 3 c. They count as of rms 0.17. Beside small ones it
  is min(1, √(32 / narrower side)) for other matrices where something normalizes, as what layers learn drowns them. The
  last matrix has twice as much, where it has as many rows as the first embedding.
- A short rise and a fall to zero along a line is the best simple schedule known (Defazio et al. 2023, 2310.07831). It
  falls from step h: few runs are near where they are going in their first hundred steps. h is 0 in ``deep`` networks.
- ``gain`` begins at 1. As long as the way from the start still descends, the cosine of the gradient and (start − θ)
  over all tensors being above 0.07, the way is long and the gain rises; it falls back to 1 when that ends. Where the
  gradient agrees with the last step and not with the way (cosines that differ by more than 0.17), two losses turn about
  each other, as the networks of a GAN do: the gain falls, at most to 0.08 / ``trained``. It is looked at in every
  fourth step of the first 0.3 N (300, if N is not told).
- Where N is told, after step h the rate falls by ``calm`` of it where gradients are noise: they have not vanished, and
  neither go on nor turn back (:mod:`recopt.toolkit.noise`). Not in plain deep networks nor where something normalizes,
  nor in linear models (one matrix and its bias), where rate, ``shrink`` and ``back`` are 0.6 of what they would be.
- O descends faster. As long as Adam's steps it vanishes where gradients do, so that rows that are right already are not
  learned further; a keeps what O alone loses, as where two losses turn (:mod:`recopt.toolkit.bases` has all bases).
  Where parameters are split over processes, O is of each part.
- With ``base=adam`` u is a. With ``base=factored`` too, from less memory. With ``base=muon`` u of matrices is
  0.2 √max(A, B) · O, which ``"square"`` holds then.
- Where N is told, entries that u makes smaller shrink besides, by lr · min(0.1, 4 · ``shrink`` / (N + 3 h) ·
  (1 + 3 · noise²)) · f(t)³ · bulk of theirs, at lr = 1 and without noise in all by exp(−``shrink``) at most (cautious
  weight decay, Chen et al. 2025, 2510.12402). bulk is trained · min(1, 0.085 / rms).
- Where N is told and gradients only ask to go on, weights go back, but not in plain deep networks nor where something
  normalizes: in every eighth step by lr · min(0.1, 16 · ``back`` / (N + h)) · √f(t) · max(0, 5 s − 4) · (1 − noise) /
  gain of the way to the start, not at all where the gain is below 1, with s the running mean (of five) of 1 where the
  loss falls both along θ and along θ − start, −1 elsewhere. Once all rows are right, a cross-entropy falls without end
  as weights are scaled up (Lyu & Li 2019, 1906.05890): what is learned by heart is held with too much confidence. Where
  errors stay, as in most regressions, s turns about zero.

State: Adam's, ``"start"`` (the first point), ``"level"`` (h), ``"back"``, ``"calm"``, ``"branched"`` (the factor for
streams), and a number for each tensor: ``"size"``, ``"bulk"``, ``"gain"``, its ``"floor"``, ``"noise"``, what that
follows from, and running means: ``"along"`` and ``"turning"``, of cosines of and beside the way, and ``"onward"``, s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from recopt import Column, Hypers, Ops, Params, Rule, State, Term, option, positive, unit
from recopt.toolkit.bases import AdamBase, FactoredBase, MixedBase, MuonBase
from recopt.toolkit.columns import at_most, cosine
from recopt.toolkit.noise import FIRST, UNHEARD, heard, noise, quieted
from recopt.toolkit.sizes import measured, streams
from recopt.toolkit.weights import deep_share, embedding_shares, is_plain, linear_share, normalizes, trained_share

SHARE, WARM, BEGINNING, LEVEL, MOST = 0.3, 0.05, 20, 100, 0.5
"""The rate over the weights' root mean square; the share of a run in which steps grow; where its length is not told,
how many those are; how many come before steps shrink, and the largest share of the run that those may be."""
EVERY, SEARCH, SPAN = 4, 0.3, 1000
"""The steps from one look at the gain to the next, the share of the run that has them, and its length if not told."""
ONWARD, RANGE, SPEED = 0.07, 0.2, 20.0
"""The cosine above which the way goes on, a large difference from it, and the powers of e that the gain moves a run."""
TURNING, FALL, FLOOR = 0.17, 0.5, 0.08
"""The excess of the last step's descent over the way's where two losses turn about each other; the factor on the gain
there, and its least value."""
AGAIN, SURE, FEWEST = 8, 0.8, 4
"""The steps between looks at whether gradients only ask to go on, the s above which weights go back, the first look."""
LARGEST, FIRM, SEEN = 0.1, 3.0, 2
"""The largest share, at lr = 1, by which a step shrinks weights or takes them back; how many times as much again they
shrink where all is noise; and the step at which streams are looked for, so that a last layer of zeros hides none."""
_SHARES = WeakTensorKeyDictionary()
"""By the first tensor's gain, which each look at it makes anew: the products of all sizes and gains, as read once."""


class Fused:
    """The kernel of ``AdamW(fused=True)``, where the gain is not looked at: one call for all tensors of one rate."""

    @staticmethod
    def step(rule: Paced, point: Column, grads: Column, state: State, hyper: Hypers, scale: float) -> bool:
        """A step in place on dense tensors of one dtype and place, on a CPU or a CUDA device; False for others."""
        columns, at = (point, grads, state["mean"], state["square"]), (state["steps"] + 1, state["level"])
        first, course, steps = point[0], rule.course(*at), at[0]
        kind, rates = first.device.type, course * hyper["lr"] * scale
        if (
            rule.base != "adam"
            or rule.looks(steps, state["back"])
            or rule.shrinking(*at)
            or state["calm"]
            or kind not in ("cpu", "cuda")
            or not hyper["eps"]
            or not rates
        ):
            return False
        if not all(t.dtype == first.dtype and t.is_contiguous() for column in columns for t in column):
            return False
        pairs, alike = zip(state["size"], state["gain"], strict=True), dict[float, list[int]]()
        if state["gain"][0] not in _SHARES:  # only after a look, as a device is waited for
            _SHARES[state["gain"][0]] = torch.stack([size.double() * gain.double() for size, gain in pairs]).tolist()
        for i, share in enumerate(_SHARES[state["gain"][0]]):
            alike.setdefault(share, []).append(i)
        state["steps"], count = steps, torch.full((), steps, dtype=torch.float32, device=first.device)
        for share, places in alike.items():
            rate = hyper["lr"] * course * share
            p, g, m, v = ([column[i] for i in places] for column in columns)
            torch._fused_adamw_(
                p, g, m, v, [], [count] * len(places), lr=scale * rate, beta1=hyper["beta1"], beta2=hyper["beta2"],
                weight_decay=hyper["weight_decay"], eps=hyper["eps"], amsgrad=False, maximize=False,
            )  # fmt: skip
        return True


BASES = {"mixed": MixedBase, "adam": AdamBase, "factored": FactoredBase, "muon": MuonBase}


class Paced(Rule):
    """Steps at a pace of their own: the rate from the weights' size, its course from the length of the run."""

    linear: ClassVar[str | None] = "lr"
    whole: ClassVar[bool] = True
    accelerator = Fused

    lr = positive(1.0, "multiplies the rate that it finds, and how far weights shrink and go back")
    beta1 = unit(0.9, "decay of the running mean of gradients; 0: none", off=0.0)
    beta2 = unit(0.999, "decay of the running mean of squared gradients")
    eps = positive(1e-8, "added to the root mean square", off=0.0)
    weight_decay = positive(0.0, "decoupled weight decay, as a multiple of the rate; 0: none", off=0.0)
    steps = option(0, "length of the whole run, after which nothing moves; 0: not told", least=0)
    base = option(
        "mixed", "the step; mixed: half Adam's, half Muon's; factored: Adam's in less memory", choices=tuple(BASES)
    )
    shrink = option(3.0, "how far weights shrink at most over a run whose length is told: by exp(-shrink)", least=0)
    calm = option(
        0.8,
        "how far the rate falls where gradients are noise, and the length is told; 1: to nothing; 0: not measured",
        least=0,
    )
    back = option(1.0, "how far weights go back where gradients only ask to go on, and the length is told", least=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.way = BASES[self.base]()
        mixed, ends = self.base == "mixed", bool(self.steps and (self.shrink or self.back))
        self.also_reads = "point", *["grads"] * mixed, *["inside"] * (mixed or ends)
        self.split = self.base in ("mixed", "adam")  # each part by itself; the others read whole matrices

    def init(self, point: Params) -> State:
        """Adam's zeros, the first point, h, and a gain of 1; ``"size"`` has no rms until the first step."""
        trained, deep = trained_share(point), is_plain(point)
        plain = deep and self.base != "muon"
        share, branched = (deep_share(point, each) for each in (plain, False))
        linear, level = linear_share(point) if self.steps else 1.0, 0 if plain else min(LEVEL, int(MOST * self.steps))
        starts = {"bulk": trained * linear, "floor": min(1.0, FLOOR / trained), "gain": 1.0, **UNHEARD}
        starts |= dict.fromkeys(("along", "turning", "onward", "noise"), 0.0)
        numbers = {name: [p.new_full((), at) for p in point] for name, at in starts.items()}
        sizes = (trained * share * linear * x for x in embedding_shares(point))
        numbers["size"] = [p.new_full((), size) for p, size in zip(point, sizes, strict=True)]
        told = self.steps > 0 and not deep and not normalizes(point)
        ends = {"back": self.back * told * linear, "calm": self.calm * (told and linear == 1)}
        ends["branched"] = branched / share if self.steps else 1.0
        return {"steps": 0, "level": level, **ends, **self.way.begin(point), **numbers}

    def looks(self, steps: int, back: float) -> bool:
        """True where the size, the gain or the way back is measured: at the first steps, and now and then."""
        return steps <= SEEN or _early(steps, self.steps) or _recalls(steps, back)

    def course(self, steps: int, level: int) -> float:
        """f(t): the factor on the rate at step t, of which ``level`` come before the fall."""
        if self.steps:
            rise, left = steps / max(1.0, WARM * self.steps), self.steps + 1 - steps
            return max(0.0, min(rise, 1.0, left / (self.steps - level)))
        return min(steps / BEGINNING, 1.0, math.sqrt(LEVEL / steps))

    def shrinking(self, steps: int, level: int) -> float:
        """4 · shrink / (N + 3 h) · f(t)³: the share that goes at step t of weights that go down."""
        return self.shrinks(level) * self.course(steps, level) ** 3 if self.steps else 0.0

    def shrinks(self, level: int) -> float:
        """4 · shrink / (N + 3 h), a tenth at most: that share before the fall, and without noise."""
        return min(LARGEST, 4 * self.shrink / (self.steps + 3 * level))

    def tells(self, state: State, hyper: Mapping[str, float]) -> dict[str, float]:
        """The present rate: the geometric mean over the tensors that move."""
        size, gain, noisy = (torch.stack(state[name]) for name in ("size", "gain", "noise"))
        shares = size * gain * (1 - state["calm"] * noisy).clamp_min(0)
        mean = shares[shares > 0].log().mean().exp().item()
        return {} if math.isnan(mean) else {"rate": hyper["lr"] * self.course(state["steps"], state["level"]) * mean}

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """Adam's means, and the size or the gain where that is looked at."""
        steps = state["steps"] + 1
        looked = self._looked(ops, grads, point, state, steps) if _early(steps, self.steps) else {}
        if _recalls(steps, state["back"]):
            looked = {**looked, "onward": _onward(ops, grads, point, state, steps)}
        if state["calm"]:
            looked = {**looked, **_noisy(ops, grads, state, steps, hyper["beta1"])}
        mean = ops.lerp(state["mean"], grads, 1 - hyper["beta1"])
        after = {**state, **looked, "steps": steps, "mean": mean}
        after["square"] = self.way.second(ops, grads, mean, state, hyper)
        if steps == 1:
            return {**after, **measured(ops, point, state, SHARE)}
        if steps == SEEN and self.steps and self.base != "muon":
            further = ops.add(ops.mul(streams(ops, grads), state["branched"] - 1), 1.0)
            return {**after, "size": ops.mul(state["size"], further)}
        return after

    def _looked(self, ops: Ops, grads: Column, point: Column, state: State, steps: int) -> State:
        """The running means of the cosines, and the gain that follows from them."""
        span, seen = self.steps or SPAN, steps // EVERY
        new = 1 / min(seen, max(5.0, 0.02 * span / EVERY))
        way, last = ops.add(state["start"], point, -1.0), self.way.last(ops, state)
        every = ops.together(ops.inner(grads, grads))
        far, near = (cosine(ops, grads, ahead, every) for ahead in (way, last))
        along = ops.lerp(state["along"], far, new)
        turning = ops.lerp(state["turning"], ops.add(near, far, -1.0), new)
        found = {"along": along, "turning": turning}
        if seen < 4 or steps <= 0.03 * span:
            return found
        return {**found, "gain": self._gain(ops, state["gain"], state["floor"], along, turning, EVERY / span)}

    def _gain(self, ops: Ops, gain: Column, floor: Column, along: Column, turning: Column, share: float) -> Column:
        """The gain after a look, which comes after ``share`` of the run."""
        excess = at_most(ops, ops.at_least(ops.mul(ops.add(along, -ONWARD), 1 / RANGE), -1.0), 1.0)
        change = ops.add(ops.mul(excess, min(0.5, SPEED * share)), 1.0)
        low = at_most(ops, gain, 1.0)  # once it is below 1 it stays
        over = ops.add(ops.at_least(ops.mul(gain, change), 1.0), -1.0)
        alone = ops.mul(low, ops.add(ops.mul(over, ops.add(ops.sign(ops.add(low, -1.0)), 1.0)), 1.0))
        fallen = ops.maximum(ops.mul(gain, FALL), floor)
        turns = ops.mul(ops.add(ops.sign(ops.add(turning, -TURNING)), 1.0), 0.5)
        return ops.add(alone, ops.mul(turns, ops.add(fallen, alone, -1.0)))

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−rate · (u + weight_decay · θ), − shrinking(t) · bulk · θ of entries that u makes smaller, and back."""
        at = state["steps"], state["level"]
        course, shrinking = self.course(*at), self.shrinking(*at)
        rate = -hyper["lr"] * course
        sizes = ops.mul(state["size"], state["gain"])
        sizes = quieted(ops, sizes, state["noise"], state["calm"]) if state["calm"] else sizes
        step = Term(*self.way.term(ops, rate, sizes, grads, state, hyper))
        terms = _back(self, ops, point, state, hyper["lr"])
        if shrinking:
            down = ops.at_least(ops.sign(ops.mul(step.numer, point)), 0.0)
            bulk = state["bulk"]
            if state["calm"]:
                firm = ops.add(ops.mul(ops.mul(state["noise"], state["noise"]), FIRM), 1.0)
                bulk = ops.mul(bulk, at_most(ops, firm, LARGEST / self.shrinks(at[1])))
            terms.append(Term(-hyper["lr"] * shrinking, ops.mul(ops.mul(down, point), bulk)))
        if self.on("weight_decay"):
            terms.append(Term(rate * hyper["weight_decay"], ops.mul(point, sizes)))
        return [*terms, step]


def _early(steps: int, length: int) -> bool:
    """True where the gain is looked at: now and then in the first part."""
    return steps % EVERY == 0 and steps <= SEARCH * (length or SPAN)


def _recalls(steps: int, back: float) -> bool:
    """True where it is looked at whether weights should go back: now and then, all the run."""
    return back > 0 and steps % AGAIN == 0


def _onward(ops: Ops, grads: Column, point: Column, state: State, steps: int) -> Column:
    """The running mean of whether the gradient asks for more of both the weights and their way: 1, or −1."""
    up, on = (ops.sign(ops.together(ops.inner(x, grads))) for x in (point, ops.add(point, state["start"], -1.0)))
    return ops.lerp(state["onward"], ops.mul(ops.maximum(up, on), -1.0), max(1 - SURE, AGAIN / steps))


def _noisy(ops: Ops, grads: Column, state: State, steps: int, decay: Any) -> State:
    """The share of noise in the last gradients, and what it follows from."""
    numbers = heard(ops, grads, state["mean"], state, steps, decay)
    return {**numbers, "noise": noise(ops, numbers, decay)} if steps > max(FIRST, state["level"]) else numbers


def _back(rule: Paced, ops: Ops, point: Column, state: State, lr: Any) -> list[Term]:
    """The way to the start, where weights go back; less of it where the way is long, none where two losses turn."""
    steps, level, gain = state["steps"], state["level"], state["gain"]
    if steps < FEWEST * AGAIN or not _recalls(steps, state["back"]):
        return []
    share = min(LARGEST, 2 * AGAIN * state["back"] / (rule.steps + level)) * math.sqrt(rule.course(steps, level))
    sure = ops.mul(ops.at_least(ops.add(state["onward"], -SURE), 0.0), 1 / (1 - SURE))
    alone = ops.add(ops.sign(ops.add(at_most(ops, gain, 1.0), -1.0)), 1.0)
    way = ops.add(state["start"], point, -1.0)
    held = quieted(ops, ops.mul(sure, alone), state["noise"], 1.0)
    return [Term(lr * share, ops.mul(way, ops.div(held, ops.at_least(gain, 1.0))))]
