"""Simulated annealing with a relative temperature and an adaptive step.

Kirkpatrick, Gelatt & Vecchi 1983; acceptance after Metropolis et al. 1953. At step n = 0, 1, … the point x and a
candidate, x' = x + (step · r / √N) spread ⊙ ε with ε standard normal in N coordinates, are scored side by side: on
the same batch, or over the same window, so the comparison is paired and what they have in common cancels. With
d = f(x') − f(x),

    accept if d ≤ 0, else with probability exp(−d / (T s)),    T = temperature · coolingⁿ

where s is the usual |d|: a running geometric mean over about the last five, in which one counts as at most ten times
the others. So T is in units of the differences that are met: multiplying the loss by a constant changes nothing, and
the temperature follows a run whose losses become small. A candidate whose loss is not finite is never accepted; if
only the present point's is not, the candidate is.

The step follows the rate of acceptance towards ``target`` (Rechenberg's 1/5 success rule in the form of Kern et al.
2004): log r grows by adaptation · (1 − target) on acceptance and falls by adaptation · target on rejection; it
stays where d = 0, which says nothing. r starts at 1 and is never above: a step that may grow without bound is drawn
onto plateaus, where any step is accepted (a learning rate so small that nothing moves is one; it was seen to end at
1e-300). It is one number per level.

``spread`` (see ``recopt.toolkit.random.spreads``) is each tensor's own unit at the start: 1 for a coordinate such as a
log learning rate, the root mean square for a network's weights; it does not follow the point. Divided by √N, a step's
length is at most ``step`` in all, whatever N: one learning rate moves by a factor of about e, thousands of weights
by √(1/N) of their length, which is the order of the best step on a sphere (Rechenberg 1973).

Under noise: both points are scored anew at every step, no best value is kept, so none can be a lucky one. Towards
the end the rule becomes a paired descent, and is as sure of a step as one batch (or one window) is.

A level above the task scores each point over a window of ``window`` evaluations of the task. The default of 100 was
measured on digits (MLP, SGD and Adam, lr from a hundredth of the best to the edge of stability, at the start and
after 300 steps, 12 seeds; the rate made 1.35 and e times longer): at 100 the paired difference of mean losses has the
sign that it has in the long run, mostly at 3 to 60 times its spread over seeds, or is within that spread. At 20 to 50
it has the wrong sign, at twice its spread, for SGD at the largest stable rate, and at 1 to 3 in nearly half of the
cases: greed (Wu et al. 2018, 1803.02021). ``every`` sets the length in steps of the level beneath.

Cooling is geometric, or with ``schedule: adaptive`` after Huang, Romeo & Sangiovanni-Vincentelli 1986: ln T falls by
(1 − cooling) · T s / σ a step, at most by ln 2, where σ is the standard deviation of the present point's losses (over
about the last twenty). So it is slow where losses still change much at this temperature, and quick where they do not.

With ``restart`` ρ, the temperature and the step start anew (reheating) as soon as r < ρ: where steps a thousandth as
long as the first still have to shrink, there is no better place within reach.

With ``moves: one`` a step changes one coordinate, chosen uniformly, by the whole length times a Cauchy number (fast
annealing: Szu & Hartley 1987): for many coordinates that matter one by one, with barriers between.

With ``repeats`` k > 1 a candidate is compared over k steps (k batches, or windows), at which the point stays, and then
accepted by the mean d̄ of the differences and its standard error χ: with β = 1 / (T s), the probability is

    exp(−β d̄ − β²χ²/2 − β⁴χ⁴ / (4 (k + 1)) − β⁶χ⁶ / (3 (k + 1) (k + 3))), or 1 if that is more

(the penalty method of Ceperley & Dewing 1999, for a variance that is estimated): the distribution of exact differences,
if χ is small beside T s. T s is at least χ, as what is smaller cannot be told from the noise. Points of one step share
most of their noise already; this is for what is left.

State: ``{"steps": n, "cooled": ln(T / temperature), "ratio": log r, "size": s (0: none met yet), "spread": [one number
per tensor], "seen": {"mean", "variance": of the present point's losses}, "tried": {"count", "gap", "square": of
differences}, "candidate": [tensors, where it is compared more than once]}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.random import along_one, chance, displaced, normal, spreads

MEMORY = 0.2
"""The weight of the newest difference in the running size of differences, once there are 1 / MEMORY of them."""
FAR = 32.0
"""The most that r is on a plateau: a rate is then tried a factor of e³² away."""
ROUNDING = 4.0
"""Differences up to this many units in the last place of the loss are rounding."""
OUTLIER = 10.0
"""A difference counts in that size as at most this many times the size so far, and at least its inverse."""


class Annealing(Strategy):
    """Simulated annealing: a random step, taken if it helps, sometimes if it does not, ever more rarely."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    moves = option("all", "the coordinates that a step changes", choices=("all", "one"))
    schedule = option("geometric", "how the temperature falls", choices=("geometric", "adaptive"))
    repeats = option(1, "comparisons of each candidate, whose spread tells the noise", least=1)
    temperature = positive(0.2, "first temperature, in units of the usual difference between two losses")
    cooling = unit(0.98, "factor on the temperature at every step")
    step = positive(1.0, "first and largest step: its length over all coordinates, each in its tensor's unit")
    target = unit(0.2, "the rate of acceptance that the step size is steered towards")
    adaptation = positive(0.1, "how fast the step size follows the rate of acceptance")
    restart = unit(0.0, "the share of the first step at which temperature and step start anew; 0: never", off=0)

    def init(self, point: Params) -> State:
        """The units of ``point``; no difference met yet."""
        zero = point[0].detach().new_zeros(())
        return {
            "steps": 0, "cooled": zero, "ratio": zero, "size": zero, "spread": spreads(point),
            "seen": {"mean": zero, "variance": zero}, "tried": {"count": 0, "gap": zero, "square": zero},
            "candidate": [p.detach() for p in point] if self.repeats > 1 else [],
        }  # fmt: skip

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[point, candidate]``."""
        if state["tried"]["count"] > 0:
            return [point, state["candidate"]]
        count = max(1, sum(p.numel() for p in point))
        length = self.step / count**0.5 * state["ratio"].exp()
        noise = normal(point, rng) if self.moves == "all" else along_one(point, rng)
        return [point, displaced(point, length, state["spread"], noise)]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move to the candidate or stay, from the losses of the two trials."""
        old, new = trials[0].loss, trials[1].loss
        assert old is not None
        assert new is not None
        luck, gap, tried = chance(old, rng), new - old, state["tried"]
        both = {"count": tried["count"] + 1, "gap": tried["gap"] + gap, "square": tried["square"] + gap * gap}
        still = {**state, "steps": state["steps"] + 1, "seen": _seen(state, old)}
        if bool(gap.isfinite()) and both["count"] < self.repeats:
            kept = {k: v if k == "count" else v.to(tried[k]) for k, v in both.items()}
            return [torch.zeros_like(p) for p in point], {**still, "tried": kept, "candidate": trials[1].point}
        mean, noise = _judged(both, gap)
        flat = mean.abs() <= ROUNDING * torch.finfo(mean.dtype).eps * old.abs()
        accepted = self._accepts(old, new, mean, noise, luck, state) & ~(flat & (state["ratio"] > 0))
        size = torch.where(flat, 0.0, mean.abs())
        push = self.adaptation * (accepted.to(gap) - self.target)
        steered = (state["ratio"].clamp_max(0) + push.to(state["ratio"])).clamp_max(0)
        after = {
            **still,
            "cooled": state["cooled"] + self._cooling(state).to(state["cooled"]),
            "ratio": torch.where(flat, (state["ratio"] + math.log(2)).clamp_max(math.log(FAR)), steered),
            "size": _followed(state["size"].to(mean), size, state["steps"]).to(state["size"]),
            "tried": {k: 0 if k == "count" else torch.zeros_like(v) for k, v in tried.items()},
        }
        if self.on("restart") and bool(after["ratio"] < self.restart.log()):
            after |= {"cooled": torch.zeros_like(after["cooled"]), "ratio": torch.zeros_like(after["ratio"])}
        moves = zip(point, trials[1].point, strict=True)
        return [torch.where(accepted, q - p, torch.zeros_like(p)) for p, q in moves], after

    def _accepts(
        self, old: Tensor, new: Tensor, gap: Tensor, noise: Tensor, luck: Tensor, state: State
    ) -> Tensor:  # fmt: skip
        """True where the candidate is accepted, by the mean difference and the square of its standard error."""
        size = state["size"].to(gap)
        heat = self.temperature * state["cooled"].exp() * torch.where(size > 0, size, gap.abs())
        heat = torch.maximum(heat.to(gap), noise.sqrt())
        spread, count = noise / heat.square(), self.repeats
        penalty = spread / 2 + spread**2 / (4 * (count + 1)) + spread**3 / (3 * (count + 1) * (count + 3))
        lucky = gap < heat * (-luck.log() - torch.where(noise > 0, penalty, 0.0))
        sure = (gap <= 0) & (noise == 0)
        return new.isfinite() & (sure | lucky | ~old.isfinite())

    def _cooling(self, state: State) -> Tensor:
        """The logarithm of the factor on the temperature after a step."""
        if self.schedule == "geometric":
            return self.cooling.log()
        spread = state["seen"]["variance"].sqrt()
        heat = self.temperature * state["cooled"].exp() * state["size"]
        fall = (1 - self.cooling) * heat / spread
        return torch.where(spread > 0, -fall.clamp_max(math.log(2)), 0.0)


def _judged(tried: Mapping[str, Any], last: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of differences and the square of its standard error; ``last`` itself if that is not finite."""
    count, mean = tried["count"], tried["gap"] / tried["count"]
    if count == 1 or not bool(last.isfinite()):
        return last, torch.zeros_like(last)
    return mean, ((tried["square"] / count - mean.square()) / (count - 1)).clamp_min(0)


def _seen(state: State, loss: Tensor) -> dict[str, Tensor]:
    """The running mean and variance of the present point's losses, after one more."""
    seen, weight = state["seen"], max(0.05, 1 / (state["steps"] + 1))
    off = loss.to(seen["mean"]) - seen["mean"]
    if not bool(off.square().isfinite()):
        return dict(seen)
    return {"mean": seen["mean"] + weight * off, "variance": (1 - weight) * (seen["variance"] + weight * off.square())}


def _followed(size: Tensor, new: Tensor, steps: int) -> Tensor:
    """The running geometric mean after one more difference; ``new`` itself if it is the first that says anything."""
    weight = max(MEMORY, 1 / (steps + 1))
    mean = torch.where(size > 0, size * (new / size).clamp(1 / OUTLIER, OUTLIER) ** weight, new)
    return torch.where(new.isfinite() & (new > 0), mean, size)
