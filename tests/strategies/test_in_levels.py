"""The analytic and zero-order strategies at work in the engine: alone, over one another, and over several tasks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from .. import engines
from ..engines import Bowl, Regression


def ended(made: engines.Engine, last: int = 20) -> float:
    return sum(engines.losses(made)[-last:]) / last


def rate(made: engines.Engine, slot: str = "sgd") -> float:
    """The learning rate, and not one that is being tried out."""
    search = made.state.levels[1].search
    point = made.state.slots[slot].params if search is None else search.point
    return math.exp(float(point[0].detach()))


def run(stack: str, steps: int, task: type = Regression, **options: object) -> engines.Engine:
    made = engines.engine(task(seed=1), stack, options.pop("settings", None), **options)  # type: ignore[arg-type]
    for _ in range(steps):
        made.step()
    return made


def test_hypergradient_mends_a_rate_that_is_too_small() -> None:
    plain, tuned = run("sgd(lr=0.001)", 400), run("sgd(lr=0.001)/hypergradient", 400)
    assert rate(tuned) > 0.01
    assert ended(tuned) < 0.5 * ended(plain)


def test_hypergradient_mends_a_rate_that_is_too_large() -> None:
    # Beyond 2 / (largest curvature) = 1 every step makes things worse; the guard is off, so this is the rule's doing.
    free = {0: {"guard": False}}
    plain, tuned = (run(s, 120, Bowl, settings=free) for s in ("sgd(lr=1.1)", "sgd(lr=1.1)/hypergradient"))
    assert engines.losses(plain)[-1] > 1e3
    assert engines.losses(tuned)[-1] < 1e-3


def test_hypergradients_step_is_kappa_times_a_cosine() -> None:
    made = run("sgd(lr=0.01)/hypergradient(kappa=0.07)", 60)
    assert isinstance(made.sink, engines.Recorder)
    moves = made.sink.series(2, "update_norm")
    assert len(moves) > 50
    assert max(moves) <= 0.07 * (1 + 1e-9)
    assert max(moves) > 0.007


@pytest.mark.parametrize("power", [-6, 6])
def test_the_tower_of_a_scale_free_rule_and_hypergradient_is_scale_free(power: int) -> None:
    # Without eps, Adam sees no scale; a power of two leaves no rounding to excuse a difference.
    def rates(scale: float) -> Tensor:
        task = Regression(seed=1)
        task.scale = scale
        made = engines.engine(task, "adam(lr=0.01, eps=0)/hypergradient")
        found = []
        for _ in range(60):
            made.step()
            found.append(torch.stack([p.detach() for p in made.state.slots["adam"].params]))
        return torch.stack(found)

    assert torch.allclose(rates(1.0), rates(10.0**power), rtol=1e-9)


@pytest.mark.parametrize("above", ["annealing", "random-search(spread=4.6)", "evolution(population=4)", "cmaes"])
@pytest.mark.parametrize("task", [Bowl, Regression])
def test_a_zero_order_level_mends_a_rate_that_is_too_small(above: str, task: type) -> None:
    plain = run("sgd(lr=0.001)", 1000, task)
    tuned = engines.engine(task(seed=1), f"sgd(lr=0.001)/{above}", {2: {"every": 20}})
    rates = []
    while tuned.budget.total.gradient < 2000:
        tuned.step()
        rates.append(rate(tuned))
    assert len(engines.losses(tuned)) <= 1010  # the others were trials
    assert ended(tuned) < 0.3 * ended(plain)
    # Up by an order of magnitude at least; what it does once there is nothing left to gain is another matter.
    assert max(rates) > 0.01


def test_annealing_over_hypergradient_over_sgd_runs_and_steps_at_every_level() -> None:
    made = run("sgd(lr=0.01)/hypergradient/annealing", 600)
    assert isinstance(made.sink, engines.Recorder)
    assert [x.every for x in made.levels] == [1, 1, 100]
    assert len(made.sink.series(2, "update_norm")) >= 200
    assert len(made.sink.series(3, "accepted")) >= 2
    assert ended(made) < 0.5


@pytest.mark.parametrize(
    "stack",
    [
        "annealing",
        "annealing(temperature=0.01)",
        "tempering",
        "random-search(spread=0.3, population=5)",
        "evolution",
        "cmaes",
    ],
)
def test_zero_order_rules_train_several_tasks_side_by_side(stack: str) -> None:
    made = run(stack, 300, Bowl, tasks=3)
    first, last = torch.zeros(3), torch.zeros(3)
    for n in range(3):
        start = made.family.fresh(0).params[0][n]
        a = torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1], dtype=torch.float64)
        first[n] = (a * start[0] ** 2).sum()
        last[n] = (a * made.state.slots["task"].params[0][n][0].detach() ** 2).sum()
    assert (last < first).all()
    assert len({float(x) for x in last}) == 3  # each its own


def test_annealings_temperature_and_step_are_tasks_own() -> None:
    made = run("annealing", 50, Bowl, tasks=3)
    state = made.state.levels[0].parts[0].strategy
    assert state["steps"] == 50
    assert state["size"].shape == state["ratio"].shape == (3,)
    assert len(set(state["size"].tolist())) == 3


@pytest.mark.parametrize("power", [-6, -1, 1, 6])
def test_annealing_the_task_itself_is_scale_free(power: int) -> None:
    def end(scale: float) -> Tensor:
        task = Regression(seed=1)
        task.scale = scale
        made = engines.engine(task, "annealing")
        for _ in range(150):
            made.step()
        return torch.cat([p.detach().flatten() for p in made.state.slots["task"].params])

    assert torch.equal(end(1.0), end(10.0**power))
