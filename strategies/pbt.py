"""Population-based training: members train side by side, and the worst go on from copies of the best.

Jaderberg et al. 2017 (1711.09846). Each of N members has a run of its own below this level, and a point of its own:
values of what the level moves. At every step all go on for one window, on the same batches, and are ranked by score.

- exploit: each of the worst ⌊share · N⌋ (at least one) takes the run (weights, optimizer states, position) and the
  point of one of as many best, drawn at random: truncation selection
- explore: that point is moved by ± step in each coordinate, in its tensor's unit (a rate by a factor of 1.2 or
  1 / 1.2), and besides by u times the way from the worse point to it, u uniform in [0, reach]

The second is the difference of points of differential evolution (Storn & Price 1997): steps have the size of the
population's own spread. Where farther is better they grow from window to window, so a start that is wrong by a factor
of 1e5 is left; where every score is the same the population spreads, and finds the edge of a plateau; where the best
is within, they shrink (the mean of ln u is negative up to a reach of e). ``reach: 0`` is the paper's rule: twenty
windows then lead at most a factor of 1.2²⁰ = 38 away.

The others go on as they are. The level holds the best member of the last window; its run is the one that the record and
the levels above see. The first points are the present one and others drawn around it, normally with standard deviation
``spread``. Among equals chance decides. A loss that is not finite is the worst; where all are, nobody copies anybody.

N runs are kept in memory, and each costs as much as one. On level 1 members are points only, since there is nothing
below. ``recopt.Optimizer`` refuses it above that, as it cannot go back to another member's run.

State: ``{"steps": n, "unit": [one number per tensor], "members": [points], "from": [for each the trial that it goes on
from]}``, the best first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.random import chance, displaced, normal, spreads, uniform
from recopt.toolkit.scores import scores


class Pbt(Strategy):
    """Population-based training: members with runs of their own, of which the worst copy the best and are varied."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    population = option(4, "members", least=2)
    share = unit(0.25, "the share of members that copy another at every step; at least one")
    step = positive(0.18, "what each coordinate of a copy is moved by, in its tensor's unit (0.18: a factor of 1.2)")
    reach = positive(2.0, "how far a copy goes on beyond the better point, at most, in differences of the two", off=0)
    spread = positive(1.0, "standard deviation of the first members around the start, in each tensor's unit")

    def init(self, point: Params) -> State:
        """All members at ``point``."""
        count = self.population
        members = [[p.detach().clone() for p in point] for _ in range(count)]
        return {"steps": 0, "unit": spreads(point), "members": members, "from": list(range(count))}

    def ancestors(self, state: State) -> list[int]:
        """The trials that the members go on from; none before the first step."""
        return [int(k) for k in state["from"]] if state["steps"] else []

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """The members."""
        if state["steps"]:
            return [list(m) for m in state["members"]]
        found = [point]
        for _ in range(self.population - 1):
            found.append(displaced(point, self.spread, state["unit"], normal(point, rng)))
        return found

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Go to the best member; let the worst copy the best."""
        losses = scores(trials)
        luck = torch.randperm(len(losses), generator=rng)  # of equals
        order = luck[losses[luck].argsort(stable=True)].tolist()
        members, of = [list(trials[k].point) for k in order], list(order)
        count = max(1, int(self.share * len(order)))
        for place in range(len(order) - count, len(order)):
            chosen = int(torch.randint(count, (), generator=rng))
            varied = self._varied(members[chosen], members[place], state, rng)
            if losses[order[chosen]].isfinite():
                members[place], of[place] = varied, order[chosen]
        after = {"steps": state["steps"] + 1, "unit": state["unit"], "members": members, "from": of}
        if not losses[order[0]].isfinite():
            return [torch.zeros_like(p) for p in point], after
        return [q - p for p, q in zip(point, trials[order[0]].point, strict=True)], after

    def _varied(self, point: Params, worse: Params, state: State, rng: Generator) -> Params:
        """``point`` with each coordinate a step up or down, and farther away from ``worse``."""
        reach, most = chance(point[0], rng), self.reach if self.on("reach") else 0
        each = zip(point, worse, state["unit"], uniform(point, rng), strict=True)
        return [p + (reach * most).to(p) * (p - w) + (self.step * unit).to(p) * (2 * (draw >= 0) - 1).to(p)
                for p, w, unit, draw in each]  # fmt: skip
