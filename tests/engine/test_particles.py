"""Perturbed points as one stacked run: as they would be one after the other, and left to that where they cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.checking.errors import Notice
from recopt.contracts.settings import positive
from recopt.contracts.strategy import Params, State, Strategy
from recopt.engine.engine import Engine
from recopt.levels.state import Signal

from ..differences import RULES, Settings
from ..engines import Bowl, Noisy, Regression, engine, params

pytestmark = pytest.mark.filterwarnings("ignore:.*estimates from trials what:recopt.checking.errors.Notice")


class Statistics(Regression):
    """With batch statistics."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))


def how(gradient: str, **more: Any) -> dict[str, Any]:
    return {"gradient": gradient, "every": 3, "sigma": 0.2, "pairs": 3, **more}


CASES: dict[str, tuple[type[Any], str, Mapping[int, Any]]] = {
    "es": (Regression, "sgd/sgd", {2: how("es")}),
    "pes, adam": (Regression, "adam/adam", {2: how("pes", episode=9)}),
    "nres, momentum": (Regression, "sgd(momentum=0.5)/sgd", {2: how("nres", episode=6)}),
    "a plain rule": (Regression, "rule/adam", {2: how("pes")}),
    "a learned rule": (Regression, "mlp-rule/adam", {2: how("pes", sigma=0.05, episode=6)}),
    "a recurrent rule": (Regression, "lstm/adam", {2: how("nres", sigma=0.05, episode=6)}),
    "buffers": (Statistics, "rmsprop/sgd", {2: how("pes", episode=9)}),
    "groups by one rule": (Regression, "adam@a[0.*]+adam@a[2.*]/sgd", {3: how("pes")}),
    "normalized": (Regression, "sgd/sgd", {1: {"normalize": "rms"}, 2: how("pes", only=("lr",))}),
    "improvement": (Regression, "sgd/sgd", {2: how("es", objective="improvement")}),
    "last": (Regression, "sgd/sgd", {2: how("pes", objective="last")}),
    "steps to": (Bowl, "sgd/sgd", {2: how("es", objective="steps_to: 0.05", every=9)}),
    "below others": (Regression, "adam/sgd/hypergradient", {2: how("pes")}),
    "below trials": (Regression, "adam/sgd/annealing", {2: how("pes"), 3: {"every": 2}}),
}  # fmt: skip


def signals(name: str, alone: bool) -> tuple[Engine, list[Signal]]:
    """A run, and the estimates of its level."""
    task, stack, settings = CASES[name]
    made = engine(task(seed=2), stack, settings, rules=RULES)
    number = max(n for n in settings if "pairs" in settings[n]) - 1
    assert made.population.particles._serves == {number}
    if alone:
        made.population.particles._serves.clear()
    found: list[Signal] = []
    deliver = made.tower.up._deliver

    def heard(state: Any, n: int, signal: Signal | None) -> None:
        if n == number and signal is not None:
            found.append(signal)
        deliver(state, n, signal)

    made.tower.up._deliver = heard  # type: ignore[method-assign]
    made.run(40)
    return made, found


def flat(signal: Signal) -> list[float]:
    return [float(x) for g in signal.grads or [] for x in torch.as_tensor(g).reshape(-1)]


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_those_of_points_run_one_after_the_other(name: str) -> None:
    (one, beside), (other, alone) = signals(name, False), signals(name, True)
    assert len(beside) == len(alone) >= 2
    for a, b in zip(beside, alone, strict=True):
        largest = max(map(abs, flat(b)))
        assert flat(a) == pytest.approx(flat(b), rel=1e-6, abs=1e-9 * largest)
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-9)
    assert any(max(map(abs, flat(b))) > 0 for b in alone)
    for slot in one.state.slots:
        for p, q in zip(params(one, slot), params(other, slot), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
    assert [x.gradient for x in one.budget.levels] == [x.gradient for x in other.budget.levels]


def test_the_guard_is_of_each_point() -> None:
    made = engine(Bowl(seed=2), "sgd(lr=0.7)/sgd(lr=1e-9)", {2: how("pes", sigma=1.0, every=30, pairs=20)})
    made.run(35)
    guard = made.state.levels[1].search.carried["stack"].guard  # type: ignore[union-attr]
    assert guard.counts["restored"] > 0
    assert len({task.reference for task in guard.tasks}) > 5
    assert min(task.shrink for task in guard.tasks) < max(task.shrink for task in guard.tasks) == 1.0


def test_models_that_draw_random_numbers_go_one_after_the_other() -> None:
    made = engine(Noisy(seed=1), "adam/sgd", {2: how("pes")})
    with pytest.warns(Notice, match="scored one after the other, as the model"):
        made.run(10)
    assert len(made.state.levels[1].search.starts) == 7  # type: ignore[union-attr]


class Branching(Strategy):
    """Asks for the value of its own parameter."""

    lr = positive(0.05)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        rate = self.lr if float(self.lr) < 1 else self.lr / 2
        return [-rate * g for g in trials[0].grads], state


def test_rules_that_cannot_be_mapped_go_one_after_the_other() -> None:
    made = engine(Bowl(seed=1), "mine/sgd", {2: how("pes")}, rules={"mine": Branching})
    before: list[Tensor] = params(made, "mine")
    with pytest.warns(Notice, match="Level 2 runs its points one after the other, as 'mine' cannot be mapped"):
        made.run(10)
    assert before != params(made, "mine")


def test_runs_that_cannot_be_gone_on_with_begin_anew() -> None:
    settings: Settings = {2: how("pes")}
    made = engine(Bowl(seed=1), "sgd/sgd", settings)
    made.run(8)
    assert "stack" in made.state.levels[1].search.carried  # type: ignore[union-attr]
    made.population.particles._serves.clear()
    made.run(9)  # in the midst of that window
    made.run(11)
    search = made.state.levels[1].search
    assert search is not None
    assert "stack" not in search.carried
    assert len(search.starts) == 7  # the window after it
