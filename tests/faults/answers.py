"""Wrong in what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from recopt import Params, State, Trial

from . import Good, GoodSearch, broken


@broken("shapes")
class OnlyMatrices(Good):
    """Takes no tensor without a dimension."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d * torch.ones(d.shape[-1], dtype=d.dtype, device=d.device) for d in delta], after


@broken("eval_points")
class UsedAsANumber(Good):
    """Would have the mean of all elements used in the place of each tensor."""

    def eval_point(self, point: Params, state: State) -> Params:
        return [p.mean() for p in point]


@broken("eval_points")
class MovesWhereItLooks(Good):
    """Changes the point when it is asked where to use it."""

    def eval_point(self, point: Params, state: State) -> Params:
        return [p.mul_(0.5) for p in point]


@broken("shapes")
class AlwaysDouble(Good):
    """Answers in float64."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d.double() for d in delta], after


@broken("shapes")
class StandardDeviation(Good):
    """Divides by a spread that one number has not."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        eps = 0.1
        return [d / (d.std() + eps) if d.numel() else d for d in delta], after


@broken("empty")
class MeanOfNothing(Good):
    """Divides by a mean that nothing has not."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d + 0.01 * torch.stack([(p * p).mean() for p in point]).sum() for d in delta], after


@broken("purity")
class ChangesTheGradient(Good):
    """Clips in the list that it was given."""

    def read(self, trials: Sequence[Trial]) -> Params:
        grads = super().read(trials)
        grads[0] = grads[0].clamp(-1, 1)
        return grads


@broken("purity")
class ChangesTheState(Good):
    """Counts in the state it was given."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        answer = super().forward(point, trials, state, rng)
        state["steps"] += 1
        return answer


@broken("purity")
class RemembersInItself(Good):
    """Keeps the last delta on self."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        self.last = len(delta) + state["steps"]
        return delta, after


@broken("repeatable")
class DrawsAnywhere(GoodSearch):
    """Draws from torch's own generator."""

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        return [point, [p + self.step * torch.randn_like(p) for p in point]]


CALLS = [0]


@broken("repeatable")
class CountsElsewhere(GoodSearch):
    """Remembers outside."""

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        CALLS[0] += 1
        return [[p + 1e-15 * CALLS[0] for p in q] for q in super().propose(point, state, rng)]


@broken("fresh_state")
class StateFromTheRate(Good):
    """Keeps the rate that it was made with."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "first_rate": self.lr.detach().clone()}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "first_rate": state["first_rate"]}


@broken("plain_state")
class TupleInTheState(Good):
    """Keeps a pair."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "pair": (1, 2)}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "pair": state["pair"]}


ELSEWHERE: dict[int, Any] = {}


@broken("plain_state")
class FindsItsMemoryByIdentity(Good):
    """Keeps a part of what it remembers outside, under the identity of another part."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        count = ELSEWHERE.get(id(state["memory"]), (0, None))[0] + 1
        ELSEWHERE[id(after["memory"])] = (count, after["memory"])
        return [d / count for d in delta], after


@broken("steady_state")
class GrowsForEver(Good):
    """Keeps every loss."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "all": []}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "all": [*state["all"], trials[0].loss]}


@broken("lost_trials")
class TakesMinusInfinity(GoodSearch):
    """Believes any low loss."""

    def better(self, trials: Sequence[Trial]) -> Tensor:
        assert trials[0].loss is not None
        assert trials[1].loss is not None
        return trials[1].loss < trials[0].loss


@broken("lost_trials")
class TakesNan(GoodSearch):
    """Takes what is not known to be worse."""

    def better(self, trials: Sequence[Trial]) -> Tensor:
        assert trials[0].loss is not None
        assert trials[1].loss is not None
        return ~(trials[1].loss >= trials[0].loss)


@broken("lost_trials")
class NeverForgetsNan(GoodSearch):
    """Averages losses, whatever they are."""

    def init(self, point: Params) -> State:
        return {"mean": point[0].new_zeros(())}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, _ = super().forward(point, trials, state, rng)
        return delta, {"mean": 0.9 * state["mean"] + 0.1 * trials[1].loss}
