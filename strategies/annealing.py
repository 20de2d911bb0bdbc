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

State: ``{"steps": n, "ratio": log r, "size": s (0: none met yet), "spread": [one number per tensor]}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, positive, unit
from recopt.toolkit.random import chance, normal, spreads

MEMORY = 0.2
"""The weight of the newest difference in the running size of differences, once there are 1 / MEMORY of them."""
OUTLIER = 10.0
"""A difference counts in that size as at most this many times the size so far, and at least its inverse."""


class Annealing(Strategy):
    """Simulated annealing: a random step, taken if it helps, sometimes if it does not, ever more rarely."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    temperature = positive(0.2, "first temperature, in units of the usual difference between two losses")
    cooling = unit(0.98, "factor on the temperature at every step")
    step = positive(1.0, "first and largest step: its length over all coordinates, each in its tensor's unit")
    target = unit(0.2, "the rate of acceptance that the step size is steered towards")
    adaptation = positive(0.1, "how fast the step size follows the rate of acceptance")

    def init(self, point: Params) -> State:
        """The units of ``point``; no difference met yet."""
        zero = point[0].detach().new_zeros(())
        return {"steps": 0, "ratio": zero, "size": zero, "spread": spreads(point)}

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[point, candidate]``."""
        count = max(1, sum(p.numel() for p in point))
        length = self.step / count**0.5 * state["ratio"].exp()
        units = zip(point, state["spread"], normal(point, rng), strict=True)
        return [point, [p + (length * spread).to(p) * noise for p, spread, noise in units]]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move to the candidate or stay, from the losses of the two trials."""
        old, new = trials[0].loss, trials[1].loss
        assert old is not None
        assert new is not None
        gap = new - old
        size, known = state["size"].to(gap), state["size"].to(gap) > 0
        heat = self.temperature * self.cooling ** state["steps"] * torch.where(known, size, gap.abs())
        lucky = gap < -chance(gap, rng).log() * heat
        accepted = new.isfinite() & ((gap <= 0) | lucky | ~old.isfinite())
        push = self.adaptation * (accepted.to(gap) - self.target)
        after = {
            "steps": state["steps"] + 1,
            "ratio": (state["ratio"] + torch.where(gap == 0, 0.0, push).to(state["ratio"])).clamp_max(0),
            "size": _followed(size, gap.abs(), state["steps"]).to(state["size"]),
            "spread": state["spread"],
        }
        moves = zip(point, trials[1].point, strict=True)
        return [torch.where(accepted, q - p, torch.zeros_like(p)) for p, q in moves], after


def _followed(size: Tensor, new: Tensor, steps: int) -> Tensor:
    """The running geometric mean after one more difference; ``new`` itself if it is the first that says anything."""
    weight = max(MEMORY, 1 / (steps + 1))
    mean = torch.where(size > 0, size * (new / size).clamp(1 / OUTLIER, OUTLIER) ** weight, new)
    return torch.where(new.isfinite() & (new > 0), mean, size)
