"""Parallel tempering: Metropolis walks at several temperatures, which exchange their points.

Replica Monte Carlo of Swendsen & Wang 1986; in this form Geyer 1991 (Metropolis-coupled chains) and Hukushima & Nemoto
1996 (exchange Monte Carlo). Each of N replicas has a temperature of a geometric ladder, T_1 = ``temperature`` to T_N =
``hottest``. At every step each takes one step of its walk: its point x and a candidate x' drawn around it, as in
``annealing``, are scored, and the candidate is accepted with probability

    min(1, exp(−(f(x') − f(x)) / (T s)))        (Metropolis et al. 1953)

Then neighbours i and j = i + 1, of even and of odd i by turns, exchange their points with probability

    min(1, exp((1 / (T_i s) − 1 / (T_j s)) (f_i − f_j)))

Both keep the product of the distributions exp(−f / (T s)) as it is. The hot ones cross barriers and the cold ones look
for the bottom, for as long as the level runs: nothing has to be cooled at the right pace, unlike in ``annealing``. All
2 N points are scored side by side, on the same batch or over the same window, so that every comparison is paired;
present ones anew, so that a lucky one does not stay. The level's point is that of the coldest replica.

s is the usual |f(x') − f(x)|: a running geometric mean over all replicas and about the last twenty steps. So the ladder
follows the differences that are met, and multiplying the loss by a constant changes nothing. With ``scale: absolute``
s is 1: temperatures are losses, and with ``adaptation=0`` each replica samples its distribution exactly.

Each replica's step follows its rate of acceptance towards ``target``, as in ``annealing``; ``step`` is the longest.
A loss that is not finite is infinite: such a candidate is not accepted, and a replica on such a point takes any other.

State: ``{"steps": n, "size": s (0: none met yet), "ratio": [N] logarithms of the steps' factors, "spread": [one number
per tensor], "others": [the points of the other replicas, from cold to hot]}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.random import along_one, displaced, normal, spreads
from recopt.toolkit.scores import scores

MEMORY = 0.05
"""The weight of the newest step in the running size of differences, once there are 1 / MEMORY of them."""


class Tempering(Strategy):
    """Parallel tempering: random walks at several temperatures, which exchange their points."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    replicas = option(4, "walks, each with two points scored at every step", least=2)
    moves = option("all", "the coordinates that a step changes", choices=("all", "one"))
    scale = option("relative", "temperatures in usual differences, or in losses", choices=("relative", "absolute"))
    temperature = positive(0.01, "temperature of the coldest replica")
    hottest = positive(1.0, "temperature of the hottest replica")
    step = positive(1.0, "first and largest step: its length over all coordinates, each in its tensor's unit")
    target = unit(0.2, "the rate of acceptance that each replica's step is steered towards")
    adaptation = positive(0.1, "how fast the steps follow the rates of acceptance; 0: not at all", off=0)

    def init(self, point: Params) -> State:
        """All replicas at ``point``."""
        line = torch.zeros(self.replicas, dtype=torch.float64)
        others = [[p.detach().clone() for p in point] for _ in line[1:]]
        return {"steps": 0, "size": line.new_zeros(()), "ratio": line, "spread": spreads(point), "others": others}

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[point, candidate]`` of each replica, from cold to hot."""
        found, count = list[Params](), max(1, sum(p.numel() for p in point))
        for at, ratio in zip([point, *state["others"]], state["ratio"], strict=True):
            noise = normal(point, rng) if self.moves == "all" else along_one(point, rng)
            length = self.step * ratio.exp() / count**0.5
            found += [at, displaced(at, length, state["spread"], noise)]
        return found

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """A step of each walk, then exchanges between neighbours."""
        losses = scores(trials)
        gaps = losses[1::2] - losses[::2]
        size = state["size"].cpu() if self.scale == "relative" else torch.ones((), dtype=torch.float64)
        heats = self._ladder() * torch.where(size > 0, size, gaps.abs())
        luck = torch.rand((2, self.replicas), generator=rng, dtype=torch.float64)
        taken = (losses[1::2] < torch.inf) & ((gaps <= 0) | (luck[0] < (-gaps / heats).exp()))
        places = torch.arange(0, 2 * self.replicas, 2) + taken.long()
        order = _exchanged(losses[places], heats, luck[1], state["steps"] % 2)
        ends = [trials[int(places[k])].point for k in order]
        ratio = state["ratio"].cpu()
        if self.on("adaptation"):
            push = self.adaptation.double().cpu() * (taken.double() - self.target.double().cpu())
            ratio = (ratio + torch.where(gaps == 0, 0.0, push)).clamp_max(0)
        after = {**state, "steps": state["steps"] + 1, "size": _followed(state, gaps), "ratio": ratio}
        return [q - p for p, q in zip(point, ends[0], strict=True)], {**after, "others": [list(e) for e in ends[1:]]}

    def _ladder(self) -> Tensor:
        """The temperatures, from cold to hot."""
        ends = self.temperature.double().cpu(), self.hottest.double().cpu()
        places = torch.linspace(0, 1, self.replicas, dtype=torch.float64)
        return ends[0] * (ends[1] / ends[0]) ** places


def _exchanged(losses: Tensor, heats: Tensor, luck: Tensor, first: int) -> list[int]:
    """The replica whose point each has after exchanges of ``first`` and its neighbour, and of every second one on."""
    order = list(range(len(losses)))
    for i in range(first, len(order) - 1, 2):
        exponent = (1 / heats[i] - 1 / heats[i + 1]) * (losses[i] - losses[i + 1])
        if luck[i] < exponent.exp():
            order[i : i + 2] = i + 1, i
    return order


def _followed(state: State, gaps: Tensor) -> Tensor:
    """The running geometric mean of differences after those of one more step."""
    known, size = gaps[gaps.isfinite() & (gaps != 0)].abs().log(), state["size"].cpu()
    if not len(known):
        return torch.as_tensor(size)
    weight = max(MEMORY, 1 / (state["steps"] + 1))
    return torch.where(size > 0, (size.log() + weight * (known.mean() - size.log())).exp(), known.mean().exp())
