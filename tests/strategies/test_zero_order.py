"""The zero-order strategies: annealing and random search do what their docstrings say."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, State, Strategy, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import Loss, bowl, descend, make, rastrigin, rosenbrock, several, vector


def median_end(name: str, loss: Loss, point: Params, steps: int) -> float:
    ends = [float(loss(descend(make(name), loss, point, steps, seed)[0][-1])) for seed in range(7)]
    return sorted(ends)[3]


def test_annealing_finds_its_way() -> None:
    assert median_end("annealing", rosenbrock, vector(-1.2, 1.0), 600) < 0.3  # 24.2 at the start
    assert median_end("annealing", rastrigin, vector(3.2, 3.2), 600) < 5.1  # 34.3; 18 in the nearest minimum


def test_annealing_leaves_a_minimum_that_descent_stays_in() -> None:
    x = vector(2.0, 2.0)  # a minimum of Rastrigin's, of 8
    warm = [float(rastrigin(descend(make("annealing"), rastrigin, x, 300, s)[0][-1])) for s in range(7)]
    assert sorted(warm)[3] < 5.1


@pytest.mark.parametrize("name", ["annealing", "random-search"])
@pytest.mark.parametrize("power", range(-6, 7))
def test_the_scale_of_the_loss_does_not_matter(name: str, power: int) -> None:
    one, _ = descend(make(name), rosenbrock, vector(-1.2, 1.0, 0.5), 200)
    scaled, _ = descend(make(name), lambda p: 10.0**power * rosenbrock(p), vector(-1.2, 1.0, 0.5), 200)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, scaled, strict=True))


@pytest.mark.parametrize("name", ["annealing", "random-search"])
def test_float32_sees_the_same_draws(name: str) -> None:
    double, _ = descend(make(name), bowl, several(), 30)
    single, _ = descend(make(name).float(), bowl, [p.float() for p in several()], 30)
    for a, b in zip(double, single, strict=True):
        assert all(torch.allclose(p, q.double(), atol=1e-4) for p, q in zip(a, b, strict=True))


def test_annealing_compares_the_present_point_with_one_candidate() -> None:
    strategy, point = make("annealing", step=0.5), several()
    first, second = strategy.propose(point, strategy.init(point), Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(first, point, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(second, point, strict=True))


def answer(strategy: Strategy, old: float, new: float, state: State | None = None) -> tuple[bool, State]:
    """Whether the candidate at 2 was taken from the point at 1, with the state after."""
    point, candidate = vector(1.0), vector(2.0)
    trials = [Trial(p, torch.tensor(f, dtype=torch.float64)) for p, f in ((point, old), (candidate, new))]
    delta, after = strategy(point, trials, state or strategy.init(point), Generator().manual_seed(1))
    assert delta[0].item() in (0.0, 1.0)
    return delta[0].item() == 1.0, after


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_annealing_never_takes_a_loss_that_is_not_finite(bad: float) -> None:
    hot = make("annealing", temperature=1e9)
    taken, after = answer(hot, 1.0, bad)
    assert not taken
    assert after["size"].item() == 0  # and learns no size from it
    assert answer(hot, bad, 1.0)[0]
    assert not answer(hot, bad, bad)[0]
    assert answer(hot, 1.0, 2.0)[0]  # though it takes almost anything


def test_annealing_takes_worse_points_as_often_as_metropolis() -> None:
    strategy = make("annealing", temperature=0.5, target=0.5)
    point, candidate = vector(1.0), vector(2.0)
    state = {**strategy.init(point), "size": torch.tensor(2.0, dtype=torch.float64)}
    trials = [Trial(point, torch.tensor(1.0)), Trial(candidate, torch.tensor(1.8))]
    rng = Generator().manual_seed(0)
    taken = sum(float(strategy(point, trials, state, rng)[0][0]) for _ in range(4000)) / 4000
    assert taken == pytest.approx(math.exp(-0.8 / (0.5 * 2)), abs=0.025)  # three standard errors


def test_annealing_cools_into_descent() -> None:
    points, _ = descend(make("annealing", cooling=0.95), rosenbrock, vector(-1.2, 1.0), 500)
    losses = [float(rosenbrock(p)) for p in points]
    assert any(b > a for a, b in pairwise(losses[:100]))
    assert all(b <= a for a, b in pairwise(losses[300:]))


@pytest.mark.parametrize("step", [10.0, 1e3])
def test_annealing_steers_its_step_to_the_target_rate_of_acceptance(step: float) -> None:
    strategy = make("annealing", step=step, target=0.3, cooling=1 - 1e-9)
    point, moves = [torch.ones(4, dtype=torch.float64)], []
    state, rng = strategy.init(point), Generator().manual_seed(0)
    for _ in range(1500):
        trials = [Trial(p, bowl(p)) for p in strategy.propose(point, state, rng)]
        # A fixed temperature: the running size, which follows the step, would go on cooling it.
        delta, state = strategy(point, trials, {**state, "size": torch.tensor(1.0, dtype=torch.float64)}, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
        moves.append(bool(delta[0].any()))
    assert sum(moves[500:]) / 1000 == pytest.approx(0.3, abs=0.03)


def test_annealing_looks_far_on_a_plateau_and_does_not_drift_on_it() -> None:
    points, states = descend(make("annealing"), lambda p: torch.ones((), dtype=torch.float64), vector(1.0), 50)
    assert states[-1]["ratio"].item() == pytest.approx(math.log(32))
    assert states[-1]["size"].item() == 0
    assert abs(float(points[-1][0]) - 1) < 4  # the first step alone was taken
    points, states = descend(make("annealing"), lambda p: (p[0].sum() < 12).double(), vector(0.0), 50)
    assert float(points[-1][0]) > 12


def test_annealing_takes_rounding_for_a_plateau_and_goes_back_to_its_own_steps() -> None:
    _, state = answer(make("annealing"), 1.0, 1.0 + 4e-16)
    assert state["ratio"].item() == pytest.approx(math.log(2))
    _, state = answer(make("annealing"), 1.0, 1.1, {**state, "ratio": state["ratio"] + 2})
    assert state["ratio"].item() == pytest.approx(-0.02)


def test_annealings_size_follows_the_differences_and_no_single_wild_one() -> None:
    strategy, state = make("annealing"), None
    for _ in range(5):
        _, state = answer(strategy, 1.0, 1.5, state)
    assert state is not None
    assert state["size"].item() == pytest.approx(0.5)
    _, wild = answer(strategy, 1.0, 1e30, state)
    assert wild["size"].item() == pytest.approx(0.5 * 10**0.2)
    for _ in range(20):
        _, state = answer(strategy, 1.0, 1.005, state)
    assert state["size"].item() == pytest.approx(0.005, rel=0.1)


def test_annealing_does_not_walk_off_onto_a_plateau() -> None:
    # The loss after some steps at rate e^x: nothing moves where x is small, so that all is accepted there.
    def tuned(point: Params) -> Tensor:
        return sum(((1 - point[0].exp() * c) ** 40 for c in (0.1, 0.5, 1.9)), torch.zeros((), dtype=torch.float64))

    ends = []
    for seed in range(9):
        points, states = descend(make("annealing"), tuned, [torch.tensor(-7.0, dtype=torch.float64)], 200, seed)
        assert max(float(s["ratio"]) for s in states) <= 0
        ends.append(float(points[-1][0]))
    assert -2 < min(ends) <= max(ends) < 0.5


def test_annealing_steps_by_one_in_a_logarithm_and_by_their_size_in_weights() -> None:
    strategy = make("annealing", step=0.3 * math.sqrt(10001))
    point = [torch.tensor(-9.0, dtype=torch.float64), 0.02 * torch.randn(200, 50, dtype=torch.float64)]
    rng, state = Generator().manual_seed(0), strategy.init(point)
    steps = [[q - p for p, q in zip(point, strategy.propose(point, state, rng)[1], strict=True)] for _ in range(200)]
    assert torch.stack([s[0] for s in steps]).std() == pytest.approx(0.3, rel=0.2)
    assert steps[0][1].std() == pytest.approx(0.3 * 0.02, rel=0.1)


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_annealings_first_step_has_one_length_whatever_the_number_of_coordinates(count: int) -> None:
    strategy, point = make("annealing", step=0.5), [torch.ones(count, dtype=torch.float64)]
    rng, state = Generator().manual_seed(0), strategy.init(point)
    squares = [float((strategy.propose(point, state, rng)[1][0] - point[0]).square().sum()) for _ in range(400)]
    assert math.sqrt(sum(squares) / 400) == pytest.approx(0.5, rel=0.1)


def test_random_search_stays_in_its_box_around_the_several() -> None:
    strategy = make("random-search", spread=0.5, population=5)
    centre = [torch.tensor(-7.0, dtype=torch.float64)]
    points, states = descend(strategy, lambda p: p[0], centre, 100)
    assert -7.5 <= points[-1][0].item() < -7.45  # the best of 400 draws, at the edge: not a walk beyond it
    candidates = strategy.propose(points[-1], states[-1], Generator())
    assert torch.equal(candidates[0][0], points[-1][0])
    assert len(candidates) == 5
    assert all(abs(c[0].item() + 7.0) <= 0.5 for c in candidates)


def test_random_search_moves_to_the_best_of_a_step_and_never_to_a_tie() -> None:
    strategy, point = make("random-search", population=4), vector(0.0)
    rng, state = Generator().manual_seed(0), strategy.init(point)
    proposed = strategy.propose(point, state, rng)

    def moved(*losses: float) -> int:
        trials = [Trial(p, torch.tensor(f)) for p, f in zip(proposed, losses, strict=True)]
        end = point[0] + strategy(point, trials, state, rng)[0][0]
        return next(n for n, p in enumerate(proposed) if torch.equal(p[0], end))

    assert moved(3.0, 2.0, 1.0, 4.0) == 2
    assert moved(1.0, 1.0, 2.0, 1.0) == 0
    assert moved(1.0, math.nan, -math.inf, 0.5) == 3
    assert moved(math.nan, math.inf, math.nan, math.nan) == 0
    assert moved(math.nan, 7.0, math.nan, 8.0) == 1


def test_random_search_gaussian_has_its_spread() -> None:
    strategy = make("random-search", shape="gaussian", spread=0.7)
    point = [torch.zeros((), dtype=torch.float64)]
    state, rng = strategy.init(point), Generator().manual_seed(0)
    drawn = torch.stack([strategy.propose(point, state, rng)[1][0] for _ in range(500)])
    assert drawn.std() == pytest.approx(0.7, rel=0.1)


def test_random_search_without_candidates_is_refused() -> None:
    with pytest.raises(RecoptError, match="at least 2, not 1"):
        make("random-search", population=1)


@pytest.mark.parametrize("settings", [
    {"repeats": 3}, {"moves": "one"}, {"schedule": "adaptive", "restart": 0.01, "repeats": 2}])  # fmt: skip
def test_variants_of_annealing_conform(settings: dict[str, Any]) -> None:
    assert_conforms(lambda: load_strategy("annealing")(**settings))


def test_adaptive_cooling_is_the_published_one() -> None:
    """Huang et al. 1986: ln T falls by (1 − cooling) T s / σ, in numpy."""
    losses = [5.0, 3.0, 4.0, 4.5, 2.0, 2.5]
    strategy, state, mean, variance, cooled = make("annealing", schedule="adaptive", cooling=0.9), None, 0.0, 0.0, 0.0
    for n, loss in enumerate(losses):
        size = 0.0 if state is None else float(state["size"])
        if variance > 0:
            cooled -= min(0.1 * 0.2 * math.exp(cooled) * size / math.sqrt(variance), math.log(2))
        _, state = answer(strategy, loss, loss + 1, state)
        weight = max(0.05, 1 / (n + 1))
        mean, variance = mean + weight * (loss - mean), (1 - weight) * (variance + weight * (loss - mean) ** 2)
        assert float(state["cooled"]) == pytest.approx(cooled, abs=1e-12)
    assert variance == pytest.approx(np.var(losses))
    assert cooled < -0.01


def test_annealing_starts_anew_where_its_steps_have_become_short() -> None:
    _, states = descend(make("annealing", restart=0.1), bowl, vector(1.0, 2.0), 300)
    ratios = [float(s["ratio"]) for s in states]
    starts = [n for n in range(2, 300) if ratios[n] == 0 and ratios[n - 1] < -1]
    assert starts
    assert min(ratios) >= math.log(0.1)
    assert all(float(states[n]["cooled"]) == 0 for n in starts)
    assert all(float(states[n - 1]["cooled"]) < 0 for n in starts)


def test_annealing_by_one_coordinate_changes_one() -> None:
    strategy, point, seen = make("annealing", moves="one"), several(), set()
    for seed in range(60):
        candidate = strategy.propose(point, strategy.init(point), Generator().manual_seed(seed))[1]
        changed = torch.cat([(q != p).flatten() for p, q in zip(point, candidate, strict=True)])
        assert changed.sum() == 1
        seen.add(int(changed.to(torch.int8).argmax()))
    assert len(seen) > 12  # of 20
    ends = [descend(make("annealing", moves="one"), rastrigin, vector(*[3.2] * 6), 1500, s)[0][-1] for s in range(5)]
    assert sorted(float(rastrigin(p)) for p in ends)[2] < 6  # 103 at the start, and over 30 by moves of all


def rate(strategy: Strategy, gap: float, noise: float, decisions: int, seed: int) -> float:
    """The share of candidates that are accepted, whose loss is greater by ``gap`` plus noise at every comparison."""
    rng, point, taken, count = Generator().manual_seed(seed), vector(0.0), 0, 0
    state = {**strategy.init(point), "size": torch.tensor(1.0, dtype=torch.float64)}
    fixed = dict(state)
    while count < decisions:
        found = strategy.propose(point, state, rng)
        off = gap + noise * torch.randn((), generator=rng, dtype=torch.float64)
        delta, state = strategy(point, [Trial(found[0], torch.zeros_like(off)), Trial(found[1], off)], state, rng)
        if state["tried"]["count"] == 0:
            count, taken, state = count + 1, taken + bool(delta[0].any()), dict(fixed)
        else:
            assert not delta[0].any()
    return taken / decisions


def test_annealing_that_knows_its_noise_keeps_the_balance_of_exact_differences() -> None:
    """Detailed balance: steps up by 1 are exp(−1/T) times as frequent as steps down, in spite of the noise."""
    wanted = math.exp(-1)
    found = {}
    for name, settings in {"knows": {"repeats": 16}, "does not": {"repeats": 1}}.items():
        strategy = make("annealing", temperature=1.0, **settings)
        noise = 0.8 * 4 if settings["repeats"] == 16 else 0.8  # of a mean, the same
        found[name] = rate(strategy, 1.0, noise, 4000, 1) / rate(strategy, -1.0, noise, 4000, 2)
    assert found["knows"] == pytest.approx(wanted, abs=0.05)
    assert found["does not"] > wanted + 0.05


def test_annealing_compares_one_candidate_as_often_as_it_repeats() -> None:
    strategy, point, rng = make("annealing", repeats=3), vector(1.0, 2.0), Generator().manual_seed(0)
    state, candidates = strategy.init(point), []
    for _ in range(6):
        found = strategy.propose(point, state, rng)
        candidates.append(found[1][0])
        _, state = strategy(point, [Trial(found[0], torch.tensor(1.0)), Trial(found[1], torch.tensor(2.0))], state, rng)
    assert torch.equal(candidates[0], candidates[2]) and torch.equal(candidates[3], candidates[5])
    assert not torch.equal(candidates[2], candidates[3])
    found = strategy.propose(point, state, rng)
    _, after = strategy(
        point, [Trial(found[0], torch.tensor(1.0)), Trial(found[1], torch.tensor(math.nan))], state, rng
    )
    assert after["tried"]["count"] == 0  # lost at once
