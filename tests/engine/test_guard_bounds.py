"""What keeps a level from going astray: guards under absurd rates, null steps, trust regions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Generator

import recopt
from recopt.contracts.settings import positive, real
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Batch, Split
from recopt.engine import measure as held_out
from recopt.levels.state import Numbers
from recopt.tasks.images import Digits

from .. import engines


class Wild(Strategy):
    """A rule above that asks for absurd rates."""

    jump = real(50.0)

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return [self.jump * torch.ones_like(p) for p in point], state


class Lost(Strategy):
    """A rule above whose answers are no numbers."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return [torch.full_like(p, torch.nan) for p in point], state


def test_absurd_rates_from_above_are_survived() -> None:
    made = engines.engine(engines.Regression(seed=0), "sgd(lr=0.05)/wild", {2: {"every": 5}}, rules={"wild": Wild})
    made.run(200)
    assert all(t.isfinite().all() for t in engines.params(made))
    assert engines.losses(made)[-1] < 100


class Plain(Strategy):
    """Descent by a ``forward`` of its own."""

    lr = positive(1.0)

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return [-self.lr * g for g in trials[0].grads or []], state


@pytest.mark.parametrize("stack", ["sgd(lr=1e3)/pbt", "adam(lr=1e3)/annealing", "plain(lr=1e3)/cmaes"])
def test_an_absurd_rate_that_is_tuned_by_trials_costs_a_step_and_not_the_model(stack: str) -> None:
    made = engines.engine(engines.Regression(seed=0), stack, {2: {"every": 20}}, rules={"plain": Plain})
    made.run(100)
    losses, memory = engines.losses(made), made.state.guard
    assert memory is not None and memory.counts["bounded"] > 0
    assert losses[-1] < losses[0] and max(losses) < 20 * losses[0]
    slot = made.state.slots[stack.partition("(")[0]]
    assert isinstance(slot, Numbers) and slot.value["lr"] < 100  # the strategy goes on from where the rate was lowered


def test_a_level_whose_steps_are_no_numbers_is_told_of_once() -> None:
    made = engines.engine(engines.Regression(seed=0), "sgd(lr=0.05)/lost", rules={"lost": Lost})
    with pytest.warns(
        RuntimeWarning, match="Level 2 moves nothing: none of its first 30 steps was a finite number"
    ) as told:
        made.run(80)
    assert len(told) == 1
    assert engines.losses(made)[-1] < engines.losses(made)[0]


def test_a_null_step_goes_back_when_the_loss_rose() -> None:
    made = engines.engine(
        engines.Bowl(seed=0), "sgd(lr=0.05)/wild(jump=1.6)", {2: {"every": 4, "null_step": True, "guard": False}},
        rules={"wild": Wild},
    )  # fmt: skip
    made.run(60)
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.series(2, "null_step")
    rates = made.sink.series(2, "lr") or made.sink.series(1, "lr")
    assert any(b < a for a, b in itertools.pairwise(rates))


def test_the_trust_region_bounds_a_step() -> None:
    settings = {3: {"every": 1, "gradient": "online", "normalize": "unit"}}
    made = engines.engine(engines.Bowl(seed=0), "sgd(lr=0.05)/sgd@k(lr=0.9)/sgd@k", settings)
    assert made.levels[2].trust == 0.01
    made.run(30)
    assert isinstance(made.sink, engines.Recorder)
    moves = made.sink.series(3, "update_norm")
    assert len(moves) > 20
    assert max(moves) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("stack", ["sgd(lr={})/hypergradient", "adam(lr={})/sgd"])
@pytest.mark.parametrize("power", range(-7, 4))
def test_no_start_rate_diverges(stack: str, power: int) -> None:
    made = engines.engine(Digits(seed=0, net="logistic"), stack.format(10.0**power), dtype=torch.float32)
    start = held_out.measure(made, "test")["loss"]
    made.run(60)
    made.flush()
    after = held_out.measure(made, "test")
    assert after["loss"] < 20 * start
    assert all(abs(x) < 1e30 for x in engines.losses(made))


class Sick(engines.Bowl):
    """A bowl without a loss at two evaluations."""

    def batch(self, index: int, split: Split = "train") -> Batch:
        return super().batch(index, split) * (float("nan") if index in (1, 2) else 1.0)


@pytest.mark.parametrize("stack", ["sgd(lr=30)/sgd(lr=0.01)[lr]", "adam(lr=30)/sgd(lr=0.01)[lr]"])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("closed", [True, False])
def test_an_update_that_was_cut_is_taken_back_if_what_comes_after_is_bad(stack: str, every: int, closed: bool) -> None:
    settings = {2: {"every": every, "gradient": "unroll", "penalty_moved": 0.0 if closed else 1e-9}}
    made = engines.engine(Sick(seed=0), stack, settings)
    points = [engines.params(made)[0]]
    for _ in range(3):
        made.step()
        points.append(engines.params(made)[0])
    assert made.state.guard is not None
    assert made.state.guard.counts == {"bounded": 1, "skipped": 2, "restored": 1}
    assert not torch.allclose(points[1], points[0], rtol=1e-3, atol=0)
    assert torch.allclose(points[3], points[0], rtol=1e-9, atol=0)


def test_towers_of_any_height_train() -> None:
    """Adam over Adam, two to eight levels high: within two points of the best, and none stands still."""
    found = []
    for depth in range(2, 9):
        result = recopt.run("digits", "adam", depth=depth, steps=150, track=False)
        guard = result.engine.state.guard
        assert guard is not None and [own.strikes for own in guard.tasks] == [0]
        assert 1e-3 < result.hyperparameters["adam.lr"] < 1
        found.append(result.after["accuracy"])
    assert min(found) >= max(found) - 0.02
    assert max(found) > 0.9


def test_an_absurd_rate_two_levels_up_neither_freezes_the_task_nor_ends_at_infinity() -> None:
    made = recopt.run("digits(batch_size=16)", "adam/sgd(lr=100)", steps=120, track=False, measure=0)
    assert math.isfinite(made.hyperparameters["adam.lr"])
    assert made.outcome != "frozen"
