"""Strategies whose answers cannot be worked with: a run and recopt.Optimizer say which, and at which level."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import Params, RecoptError, State, Strategy, positive

from .. import engines


class Good(Strategy):
    """Plain steps."""

    lr = positive(0.1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return [-self.lr * g for g in trials[0].grads], state


class Spoils(Good):
    """Its state is not a number from the first step on."""

    def init(self, point: Params) -> State:
        return {"mean": [torch.zeros_like(p) for p in point], "count": 0.0}

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        delta, _ = super().forward(point, trials, state, rng)
        return delta, {"mean": state["mean"], "count": float("nan")}


class Narrow(Good):
    """A delta that would be spread over its tensor."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return [d.reshape(-1)[:1] for d in super().forward(point, trials, state, rng)[0]], state


class Double(Good):
    """Deltas of another dtype."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return [d.to(torch.float16) for d in super().forward(point, trials, state, rng)[0]], state


class Elsewhere(Good):
    """Deltas on another device."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return [d.detach().to("meta") for d in super().forward(point, trials, state, rng)[0]], state


class OneOnly(Good):
    """A delta for the first tensor only."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return super().forward(point, trials, state, rng)[0][:1], state


class Joined(Good):
    """A tensor in the place of a list."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return torch.cat([d.reshape(-1) for d in super().forward(point, trials, state, rng)[0]]), state


class MovesThePoint(Good):
    """Steps by itself, in place."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        delta, _ = super().forward(point, trials, state, rng)
        for p, d in zip(point, delta, strict=True):
            p.detach().add_(d.detach())
        return delta, state


class MovesTheState(Good):
    """Keeps its mean in place."""

    def init(self, point: Params) -> State:
        return {"mean": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        for m, g in zip(state["mean"], trials[0].grads, strict=True):
            m.add_(g.detach())
        return super().forward(point, trials, state, rng)[0], state


class MovesTheSignal(Good):
    """Shortens its signal in place."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        for g in trials[0].grads:
            g.mul_(0.5)
        return super().forward(point, trials, state, rng)


class MovesTheLoss(Good):
    """Shifts the loss that it is told in place."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        if trials[0].loss is not None:
            trials[0].loss.add_(1.0)
        return super().forward(point, trials, state, rng)


class MovesItself(Good):
    """Lowers its own rate in place, where a level above has the say."""

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        answer = super().forward(point, trials, state, rng)
        next(self.parameters()).detach().mul_(0.9)
        return answer


class WrongSearch(Strategy):
    """A zero-order rule with a delta too many."""

    order = 0

    def propose(self, point: Params, state: State, rng: Any) -> list[Params]:
        return [point, [p + 0.1 for p in point]]

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return [torch.zeros_like(p) for p in [*point, *point]], state


class SearchMovesThePoint(Strategy):
    """A zero-order rule that proposes by moving the point itself."""

    order = 0

    def propose(self, point: Params, state: State, rng: Any) -> list[Params]:
        return [point, [p.add_(0.1) for p in point]]

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        return [torch.zeros_like(p) for p in point], state


class SearchMovesTheState(WrongSearch):
    """A zero-order rule that counts in place."""

    def init(self, point: Params) -> State:
        return {"count": torch.zeros(())}

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
        state["count"].add_(1)
        return [torch.zeros_like(p) for p in point], state


FAULTS: dict[type[Strategy], str] = {
    Spoils: "has a state that is not a number",
    Narrow: r"gave a delta \(.*1,?\) of .* for a tensor \(",
    Double: "gave a delta .*float16.* for a tensor",
    Elsewhere: "gave a delta .* on meta for a tensor .* on cpu",
    OneOnly: "gave 1 for the deltas of [24] tensors",
    Joined: "gave Tensor for the deltas of [24] tensors",
    MovesThePoint: "changed a tensor that it was given in place",
    MovesTheState: "changed a tensor that it was given in place",
    MovesTheSignal: "changed a tensor that it was given in place",
    MovesItself: "changed a tensor that it was given in place",
    SearchMovesThePoint: "changed a tensor that it was given in place",
    SearchMovesTheState: "changed a tensor that it was given in place",
    WrongSearch: "gave [48] for the deltas of [24] tensors",
}


@pytest.mark.parametrize("rule", FAULTS)
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_run_names_strategy_and_level(rule: type[Strategy], tasks: int) -> None:
    if tasks == 2 and rule is Elsewhere:
        return  # torch's own error, since tasks are put together
    made = engines.engine(engines.Regression(), "wrong", rules={"wrong": rule}, tasks=tasks)
    with pytest.raises(RecoptError, match=f"Level 1: strategy 'wrong' {FAULTS[rule]}.*recopt check"):
        made.run(3)


@pytest.mark.parametrize("normalize", ["rms", "rms_all", "clip", "unit", "none"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_signal_that_is_changed_in_place_is_told_of_however_it_is_normalized(normalize: str, tasks: int) -> None:
    for stack, number in (("wrong", 1), ("good/wrong", 2), ("good/good/wrong", 3)):
        made = engines.engine(
            engines.Regression(), stack, {number: {"normalize": normalize}},
            rules={"good": Good, "wrong": MovesTheSignal}, tasks=tasks,
        )  # fmt: skip
        with pytest.raises(RecoptError, match=f"Level {number}: strategy 'wrong' changed a tensor that it was given"):
            made.run(6)


def test_a_loss_that_is_changed_in_place_is_told_of() -> None:
    made = engines.engine(engines.Regression(), "wrong", rules={"wrong": MovesTheLoss})
    with pytest.raises(RecoptError, match="Level 1: strategy 'wrong' changed a tensor that it was given in place"):
        made.run(3)


@pytest.mark.parametrize("rule", [Spoils, Double, WrongSearch, MovesItself, SearchMovesThePoint, SearchMovesTheState])
def test_so_it_does_at_a_level_above(rule: type[Strategy]) -> None:
    said = FAULTS[rule].replace("[48]", "2").replace("[24]", "1")
    settings = {2: {"every": 2}}
    made = engines.engine(engines.Regression(), "good/wrong", settings, rules={"good": Good, "wrong": rule})
    if rule is Double:  # numbers may be of any kind
        made.run(8)
        return
    with pytest.raises(RecoptError, match=f"Level 2: strategy 'wrong' {said}"):
        made.run(8)


@pytest.mark.parametrize("rule", [rule for rule in FAULTS if rule.order])
def test_an_optimizer_names_strategy_and_level(rule: type[Strategy]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = recopt.Optimizer(model.parameters(), rule())

    def step() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 3)).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with pytest.raises(RecoptError, match=f"Level 1: strategy '.*' {FAULTS[rule]}"):
        optimizer.step(step)


def test_a_state_that_spoils_later_is_told_of_as_soon_as_the_task_goes_wrong() -> None:
    class Late(Good):
        """Not a number from its eighth step on."""

        def init(self, point: Params) -> State:
            return {"steps": 0, "mean": [torch.zeros_like(p) for p in point]}

        def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Any, State]:
            delta, _ = super().forward(point, trials, state, rng)
            mean: list[Tensor] = [m * float("nan") for m in state["mean"]] if state["steps"] > 6 else state["mean"]
            return [d + m for d, m in zip(delta, mean, strict=True)], {"steps": state["steps"] + 1, "mean": mean}

    made = engines.engine(engines.Regression(), "late", rules={"late": Late})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made.run(20)
    assert any("Level 1: strategy 'late' has a state that is not a number" in str(w.message) for w in told)
