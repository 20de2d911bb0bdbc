"""Population-based training: truncation selection, steps of 1.2, and members that keep their own runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator

import recopt
from recopt import RecoptError, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .. import engines
from .zero_order import make


def test_pbt_conforms() -> None:
    assert_conforms(load_strategy("pbt"))
    assert_conforms(lambda: load_strategy("pbt")(population=7, share=0.4))


def test_the_worst_copy_one_of_the_best_and_are_varied_by_a_step() -> None:
    strategy, rng = make("pbt", population=8, share=0.25, reach=0), Generator().manual_seed(0)
    point = [torch.tensor(x, dtype=torch.float64) for x in (-4.0, 2.0)]
    state = strategy.init(point)
    found = strategy.propose(point, state, rng)
    assert all(torch.equal(a, b) for a, b in zip(found[0], point, strict=True))
    assert len({float(p[0]) for p in found}) == 8
    assert strategy.ancestors(state) == []
    losses = [3.0, math.nan, 1.0, 6.0, 2.0, 4.0, 5.0, 7.0]  # the best are 2 and 4, the worst 7 and 1
    trials = [Trial(p, torch.tensor(x)) for p, x in zip(found, losses, strict=True)]
    delta, after = strategy(point, trials, state, rng)
    assert all(torch.allclose(p + d, q) for p, d, q in zip(point, delta, found[2], strict=True))
    of = strategy.ancestors(after)
    assert of[:6] == [2, 4, 0, 5, 6, 3]
    assert set(of[6:]) <= {2, 4}
    members = strategy.propose([p + d for p, d in zip(point, delta, strict=True)], after, rng)
    for place, (member, k) in enumerate(zip(members, of, strict=True)):
        moved = [abs(float(a - b)) for a, b in zip(member, found[k], strict=True)]
        assert moved == pytest.approx([0.0, 0.0] if place < 6 else [0.18, 0.18])


def test_where_no_loss_is_finite_nobody_copies_anybody() -> None:
    strategy, rng = make("pbt"), Generator().manual_seed(0)
    point = [torch.tensor(-4.0, dtype=torch.float64)]
    found = strategy.propose(point, strategy.init(point), rng)
    delta, after = strategy(point, [Trial(p, torch.tensor(math.inf)) for p in found], strategy.init(point), rng)
    assert float(delta[0]) == 0
    assert sorted(strategy.ancestors(after)) == [0, 1, 2, 3]


def places(loss: Callable[[float], float], steps: int) -> list[list[float]]:
    """Where the members are, step by step, on a line."""
    strategy, rng = make("pbt"), Generator().manual_seed(0)
    point = [torch.zeros((), dtype=torch.float64)]
    state, seen = strategy.init(point), []
    for _ in range(steps):
        found = strategy.propose(point, state, rng)
        seen.append([float(p[0]) for p in found])
        delta, state = strategy(point, [Trial(p, torch.tensor(loss(float(p[0])))) for p in found], state, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
    return seen


def test_steps_grow_on_the_way_and_shrink_at_its_end() -> None:
    seen = places(lambda x: abs(x - 18), 40)
    assert max(map(max, seen[:15])) > 14  # steps of 0.18 would be at 4
    assert sorted(abs(x - 18) for x in seen[-1])[2] < 1  # the fourth is the one that explores


def test_where_all_scores_are_equal_the_population_spreads() -> None:
    seen = places(lambda x: 1.0, 20)
    assert max(seen[-1]) - min(seen[-1]) > 5 * (max(seen[0]) - min(seen[0]))


def test_it_escapes_a_rate_that_is_too_small() -> None:
    made = engines.engine(engines.Regression(seed=1), "sgd(lr=0.001)/pbt(population=6, spread=2)", {2: {"every": 20}})
    plain = engines.engine(engines.Regression(seed=1), "sgd(lr=0.001)")
    made.run(400)
    plain.run(400)
    assert sum(engines.losses(made)[-20:]) < 0.5 * sum(engines.losses(plain)[-20:])


def test_a_loop_that_is_not_ours_refuses_it() -> None:
    with pytest.raises(RecoptError, match="Level 2: 'pbt' has members .*cannot go back: take annealing or evolution"):
        recopt.Optimizer(torch.nn.Linear(2, 1).parameters(), "sgd/pbt")


def test_a_population_of_one_is_refused() -> None:
    with pytest.raises(RecoptError, match="pbt.population must be at least 2, not 1"):
        make("pbt", population=1)
