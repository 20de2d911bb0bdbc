"""Optuna's samplers behind the contract: its own trials, a state without pickles, losses that drift."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Generator

from recopt import Params, RecoptError, State, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .zero_order import Loss, bowl, descend, make, rosenbrock, several

optuna = pytest.importorskip("optuna")
SPACE = {f"x{i}": optuna.distributions.FloatDistribution(-2.3, 2.3) for i in range(3)}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_optuna_conforms(sampler: str) -> None:
    assert_conforms(lambda: load_strategy("optuna")(sampler=sampler))


def start() -> Params:
    return [torch.tensor(x, dtype=torch.float64) for x in (-1.2, 1.0, 0.3)]


def valley(point: Params) -> torch.Tensor:
    return rosenbrock([torch.stack(point)])


def theirs(make_sampler: Callable[[int], object] | None, sampler: object, count: int, steps: int) -> list[list[float]]:
    """The points that one study asks for, ``count`` at a time; its sampler made anew at every step, if it can be."""
    study, seeds, found = optuna.create_study(sampler=sampler), Generator().manual_seed(4), list[list[float]]()
    for step in range(steps):
        seed = int(torch.randint(2**31, (), generator=seeds))
        if make_sampler:
            study.sampler = make_sampler(seed)
        asked = [study.ask(SPACE) for _ in range(count)]
        told = [valley([p + a.params[f"x{i}"] for i, p in enumerate(start())]) for a in asked]
        if step == 0:
            first = dict.fromkeys(SPACE, 0.0)
            study.add_trial(optuna.create_trial(params=first, distributions=SPACE, value=float(valley(start()))))
        for trial, loss in zip(asked, told, strict=True):
            study.tell(trial, float(loss))
            found.append([float(p) + trial.params[f"x{i}"] for i, p in enumerate(start())])
    return found


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("sampler", "steps"), [("tpe", 20), ("random", 5), ("cmaes", 15), ("gp", 3)])
def test_trials_are_those_of_one_study(sampler: str, steps: int) -> None:
    """Made anew from the trials at every step, it asks for what a study that was never put away asks for."""
    kind = {
        "tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler,
        "cmaes": optuna.samplers.CmaEsSampler, "random": optuna.samplers.RandomSampler,
    }[sampler]  # fmt: skip
    wanted = theirs(None if sampler == "cmaes" else lambda seed: kind(seed=seed), kind(seed=4 + 1), 2, steps)
    strategy, point, rng, found = make("optuna", sampler=sampler, population=3), start(), Generator().manual_seed(4), []
    state = strategy.init(point)
    for _ in range(steps):
        asked = strategy.propose(point, state, rng)
        assert all(torch.equal(a, b) for a, b in zip(asked[0], point, strict=True))
        found += [[float(x) for x in p] for p in asked[1:]]
        delta, state = strategy(point, [Trial(p, valley(p)) for p in asked], state, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
    assert torch.allclose(torch.tensor(found), torch.tensor(wanted), atol=1e-9)
    assert float(valley(point)) == pytest.approx(float(state["losses"][-state["known"] :].min()))


def test_it_learns_where_losses_are_small() -> None:
    ends = {s: descend(make("optuna", sampler=s), bowl, start(), 40, 1)[0][-1] for s in ("tpe", "random")}
    assert float(bowl(ends["tpe"])) < 0.5 * float(bowl(ends["random"]))


def drifting(loss: Loss) -> Loss:
    """``loss`` of a run that goes on: two points a step, each step's losses a half less."""
    count = iter(range(10**6))
    return lambda p: loss(p) - (next(count) // 2) * 0.5


def test_the_present_points_change_is_taken_off_the_losses() -> None:
    plain, states = descend(make("optuna"), valley, start(), 25)
    moved, others = descend(make("optuna"), drifting(valley), start(), 25)
    assert all(torch.equal(torch.stack(a), torch.stack(b)) for a, b in zip(plain, moved, strict=True))
    assert torch.allclose(states[-1]["losses"], others[-1]["losses"], atol=1e-9)
    assert float(others[-1]["drift"]) == pytest.approx(-12)


def test_a_loss_that_is_not_finite_counts_as_the_greatest() -> None:
    strategy, point = make("optuna", population=4), start()
    state, rng = strategy.init(point), Generator().manual_seed(0)

    def told(state: State, *losses: float) -> tuple[Params, State]:
        asked = strategy.propose(point, state, rng)
        return strategy(point, [Trial(p, torch.tensor(x)) for p, x in zip(asked, losses, strict=True)], state, rng)

    delta, after = told(state, 1.0, math.nan, 3.0, -math.inf)
    assert not any(d.any() for d in delta)
    assert after["losses"][-4:].tolist() == [1, 3, 3, 3]
    delta, last = told(after, math.inf, math.inf, 2.0, math.nan)
    assert any(d.any() for d in delta)
    assert last["losses"][-7:].tolist() == [1, 3, 3, 3, 3, 2, 3]
    assert not told(state, *[math.nan] * 4)[1]["losses"].any()


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_what_is_beyond_its_memory_is_forgotten(sampler: str) -> None:
    settings = {"sampler": sampler, "population": 4}
    _, states = descend(make("optuna", memory=20, **settings), valley, start(), 12)
    _, wide = descend(make("optuna", memory=40, **settings), valley, start(), 12)
    assert [s["known"] for s in states[5:9]] == ([16, 19, 20, 20] if sampler == "tpe" else [16, 19, 0, 4])
    assert torch.equal(states[6]["losses"][1:], wide[6]["losses"][21:])
    assert states[-1]["rows"].shape == states[0]["rows"].shape == (20, 3)
    first, second = (s["rows"][-s["known"] + 1 :][:3] for s in (states[1], states[8]))
    assert not torch.equal(first, second)  # another study, other draws


def test_it_searches_a_box_in_the_unit_of_each_tensor() -> None:
    strategy, point = make("optuna", sampler="random", population=200, spread=0.5), several()
    state = strategy.init(point)
    found = strategy.propose(point, state, Generator().manual_seed(0))
    for i, (p, unit) in enumerate(zip(point, state["unit"], strict=True)):
        off = torch.stack([f[i] - p for f in found]).abs().max() / unit
        assert 0.45 < float(off) <= 0.5


def test_optunas_own_lines_are_silent_and_its_level_is_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    descend(make("optuna"), bowl, several(), 2)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""


def test_a_study_of_another_population_is_refused() -> None:
    _, states = descend(make("optuna", sampler="cmaes"), valley, start(), 12)
    with pytest.raises(RecoptError, match="another version of optuna, or another population, began it"):
        make("optuna", sampler="cmaes", population=6).propose(start(), states[-1], Generator().manual_seed(0))


def test_too_many_coordinates_or_too_few_are_refused() -> None:
    with pytest.raises(RecoptError, match="memory must be at least its population, 30, not 20"):
        make("optuna", population=30, memory=20)
    with pytest.raises(RecoptError, match="at most 1,000 coordinates, not 1,001: take evolution or cmaes"):
        make("optuna").init([torch.ones(1001)])
    with pytest.raises(RecoptError, match="needs two coordinates or more, not 1: take sampler=tpe"):
        make("optuna", sampler="cmaes").init([torch.ones(())])


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecoptError, match=r"'optuna' needs the package 'optuna': pip install 'recopt\[search\]'\.$"):
        make("optuna")
