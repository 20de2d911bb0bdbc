"""Who steps when: clocks, windows, episodes, and what it is charged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Generator

from recopt.contracts.settings import positive
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Batch, Split
from recopt.engine.engine import Engine
from recopt.levels.seeds import mix

from .. import engines


class Tick(Strategy):
    """Moves by nothing and notes the order of calls."""

    lr = positive(0.1)
    calls: list[str] = []  # noqa: RUF012
    tag = ""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        self.calls.append(self.tag)
        return [-0.01 * self.lr * g for g in trials[0].grads or []], state


class One(Tick):
    tag = "One"


class Two(Tick):
    tag = "Two"


class Three(Tick):
    tag = "Three"


def test_the_highest_steps_first() -> None:
    Tick.calls.clear()
    made = engines.engine(engines.Bowl(), "one/two/three", rules={"one": One, "two": Two, "three": Three})
    made.run(4)
    assert Tick.calls == ["One", "Two", "One", "Three", "Two", "One", "Three", "Two", "One"]


def steps(made: Engine) -> list[int]:
    return [level.steps for level in made.state.levels]


def test_every_counts_the_steps_of_the_level_below() -> None:
    made = engines.engine(
        engines.Bowl(), "sgd/adam/adam@b",
        {2: {"every": 3, "gradient": "unroll"}, 3: {"every": 4, "gradient": "unroll"}},
    )  # fmt: skip
    made.run(40)
    # Level 2 steps at evaluations 3, 6, …, 39; level 3 where every fourth update of level 2 has been scored.
    assert steps(made) == [40, 13, 3]


def test_coprime_windows_over_one_strategy() -> None:
    made = engines.engine(
        engines.Regression(), "adam(lr=0.02)/sgd[lr]+sgd@b[beta1]",
        {2: {"every": 3, "gradient": "unroll"}, 3: {"every": 5, "gradient": "unroll"}},
    )  # fmt: skip
    made.run(61)
    assert steps(made) == [61, 20, 12]


@pytest.mark.parametrize(("second", "every"), [(False, 5), (True, 3)])
def test_windows_over_one_strategy_do_not_disturb_each_other(second: bool, every: int) -> None:
    # A level that moves nothing (lr 1e-30) beside another must not change what that one does.
    settings = {2: {"every": 3, "gradient": "unroll", "second_order": second}}
    alone_ = engines.engine(engines.Regression(seed=1), "adam(lr=0.02)/sgd[lr]", settings)
    other = {**settings, 3: {"every": every, "gradient": "unroll", "second_order": second, "normalize": "unit"}}
    both = engines.engine(engines.Regression(seed=1), "adam(lr=0.02)/sgd[lr]+sgd@b(lr=1e-30)[beta1]", other)
    alone_.run(60)
    both.run(60)
    assert engines.losses(both) == pytest.approx(engines.losses(alone_), rel=1e-9)


def test_a_strategy_of_two_slots_and_groups() -> None:
    made = engines.engine(
        engines.Regression(), "adam(lr=0.02)[*weight]+sgd(lr=0.05)[*bias]/hypergradient@h",
        {3: {"every": 2, "gradient": "unroll"}, 4: {"every": 3, "gradient": "unroll"}},
    )  # fmt: skip
    made.run(31)
    assert steps(made) == [31, 31, 15, 10]
    assert engines.losses(made)[-1] < engines.losses(made)[0]


def test_tied_and_self_loops_run() -> None:
    made = engines.engine(engines.Regression(), "sgd@s(lr=0.05)[0.*]+sgd@s[2.*]/sgd@k/sgd@k")
    made.run(30)
    assert steps(made)[:2] == [30, 30]
    assert all(n >= 27 for n in steps(made)[2:])


class Count(engines.Bowl):
    """Notes which batches are asked for."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012

    def batch(self, index: int, split: Split = "train") -> Batch:
        type(self).asked.append((self.seed, index))
        return super().batch(index, split)


def test_an_episode_starts_afresh() -> None:
    Count.asked.clear()
    made = engines.engine(
        Count(seed=3), "adam/sgd/sgd@b", {2: {"every": 2, "gradient": "unroll", "episode": 4}, 3: {"every": 3}}, seed=3
    )
    made.run(12)
    # Five evaluations make four updates: the last one closes the window only.
    seeds = list(dict.fromkeys(seed for seed, _ in Count.asked))
    assert [index for _, index in Count.asked] == [0, 1, 2, 3, 4] * 2 + [0, 1, 2, 3]
    assert seeds == [3, mix(3, 1, 0), mix(3, 2, 0)]
    assert made.state.slots["task"].age == 4
    assert made.state.levels[0].parts[0].strategy["steps"] == 4
    assert steps(made)[0] == 12
    first = engines.engine(Count(), "adam", seed=seeds[1]).state.slots["task"].params
    fresh = made.family.fresh(1).params
    assert all(torch.equal(a, b) for a, b in zip(first, fresh, strict=True))


def test_episodes_of_a_strategy_draw_it_afresh() -> None:
    made = engines.engine(
        engines.Regression(seed=1), "adam/lstm/sgd",
        {2: {"every": 1, "gradient": "unroll"}, 3: {"every": 2, "gradient": "unroll", "episode": 4}},
    )  # fmt: skip
    made.run(20)
    assert made.state.slots["adam"].draw >= 2
    assert made.state.slots["task"].draw == made.state.slots["adam"].draw
    assert made.state.slots["lstm"].draw == 0


def test_accounts() -> None:
    made = engines.engine(
        engines.Regression(),
        "adam/sgd/sgd@b",
        {2: {"every": 2, "gradient": "unroll", "on": "valid"}, 3: {"every": 3}},
        tasks=2,
    )
    made.run(20)
    total = made.budget.total
    # 20 updates take 20 evaluations of two tasks, and held-out ones for every update but the last.
    assert (total.loss, total.gradient) == (0, 2 * (20 + 19))
    assert total.hypergradient == 9 + 2
    assert total.seconds > 0


def test_a_level_that_matters_late_is_not_refused() -> None:
    # Adam's first update does not depend on its betas.
    made = engines.engine(engines.Regression(), "adam/sgd[beta1]")
    made.run(5)
    assert steps(made)[1] == 4
