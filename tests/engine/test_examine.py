"""Examined windows: the spectral radius against closed forms and explicit Jacobians, and windows of T and 2T."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recopt
from recopt import RecoptError
from recopt.engine.radius import PRODUCTS, one_step, radius, spectral_radius

from .. import engines

CURVATURE = torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1], dtype=torch.float64)
"""The eigenvalues of the Hessian of :class:`engines.Bowl`."""


def parts(made: Any) -> Any:
    """What a radius is taken of."""
    return made.tower, made.family, made.source, made.state, made.graph.movers["task"]


def found(stack: str, task: Any = None, steps: int = 30, settings: engines.Settings | None = None) -> float:
    made = engines.engine(task or engines.Bowl(seed=2), stack, settings, seed=2)
    made.run(steps)
    return radius(*parts(made))


def explicit(stack: str, task: Any, steps: int) -> float:
    """The largest modulus of an eigenvalue of the Jacobian, entry by entry."""
    made = engines.engine(task, stack, seed=2)
    made.run(steps)
    with torch.enable_grad():
        ins, outs = one_step(*parts(made))
    rows = []
    for out in outs:
        for entry in out.reshape(-1):
            slopes = torch.autograd.grad(entry, ins, retain_graph=True, allow_unused=True)
            rows.append(torch.cat([torch.zeros_like(x).view(-1) if g is None else g.reshape(-1)
                                   for g, x in zip(slopes, ins, strict=True)]))  # fmt: skip
    return float(torch.linalg.eigvals(torch.stack(rows)).abs().max())


@pytest.mark.parametrize("stack", ["sgd(lr=0.9, momentum=0.5)", "adam(lr=0.1)", "mlp-rule(hidden=3)"])
def test_the_radius_of_the_first_step_is_that_of_the_explicit_jacobian(stack: str) -> None:
    assert found(stack, steps=0) == pytest.approx(explicit(stack, engines.Bowl(seed=2), 0), rel=1e-4)


def test_a_window_that_begins_an_episode_has_a_radius() -> None:
    settings = ["level2.every=2", "level2.episode=2", "level2.examine=1"]
    made = recopt.run("quadratic(dim=2)", "mlp-rule/adam", steps=7, settings=settings, track=False, progress=False)
    radii = made.history("radius", 2)[1]
    assert len(radii) == 3 and all(map(math.isfinite, radii))


@pytest.mark.parametrize("lr", [0.1, 0.9, 1.05])
def test_the_radius_of_gradient_descent_on_a_quadratic_is_the_largest_of_one_less_rate_times_curvature(
    lr: float,
) -> None:
    assert found(f"sgd(lr={lr})", steps=3) == pytest.approx(float((1 - lr * CURVATURE).abs().max()), rel=1e-6)


@pytest.mark.parametrize(("lr", "momentum"), [(0.1, 0.9), (0.01, 0.5), (1.8, 0.9), (2.2, 0.9)])
def test_the_radius_with_momentum_is_that_of_the_companion_matrices(lr: float, momentum: float) -> None:
    each = [torch.tensor([[1 - lr * h, -lr * momentum], [h, momentum]], dtype=torch.float64) for h in CURVATURE]
    wanted = max(float(torch.linalg.eigvals(one).abs().max()) for one in each)
    assert found(f"sgd(lr={lr}, momentum={momentum})", steps=3) == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "lstm(hidden=3)", "sgd(lr=0.1)[0.*]+adam(lr=0.05)[2.*]"])
def test_the_radius_of_adaptive_and_learned_rules_is_that_of_the_explicit_jacobian(stack: str) -> None:
    task = engines.Regression(seed=1)
    assert found(stack, task, 8) == pytest.approx(explicit(stack, task, 8), rel=1e-2)


def test_the_radius_is_of_the_first_of_tasks_side_by_side() -> None:
    alone, several = (engines.engine(engines.Bowl(seed=2), "sgd(lr=0.9)", seed=2, tasks=n) for n in (1, 3))
    for made in (alone, several):
        made.run(2)
    radii = [radius(*parts(made)) for made in (alone, several)]
    assert radii[1] == pytest.approx(0.91, rel=1e-6) and radii[0] == pytest.approx(radii[1])


def test_the_radius_of_matrices_of_every_kind() -> None:
    dice = torch.Generator().manual_seed(0)
    for turn in range(6):
        matrix = torch.randn(6, 6, generator=dice, dtype=torch.float64)
        matrix = matrix + matrix.T if turn % 2 else matrix
        wanted = float(torch.linalg.eigvals(matrix).abs().max())
        start = torch.randn(6, generator=dice, dtype=torch.float64)
        assert spectral_radius(lambda v, m=matrix: m @ v, start) == pytest.approx(wanted, rel=1e-8)
    start = torch.ones(2, dtype=torch.float64)
    assert spectral_radius(torch.zeros_like, start) == 0
    assert math.isnan(spectral_radius(lambda v: v * math.nan, start))


def agreements(stack: str, settings: engines.Settings, steps: int = 60) -> tuple[list[float], Any]:
    made = engines.engine(engines.Bowl(seed=2), stack, settings, seed=2)
    made.run(steps)
    sink: Any = made.sink
    return sink.series(2, "window_agreement"), made


def by_hand(made: Any, rate: float, every: int) -> Tensor:
    """The hypergradient by log rate and momentum of the next window of gradient descent, second derivatives dropped."""
    x = made.state.task.params[0].detach().clone().view(-1)
    held = made.state.levels[0].parts[0].strategy
    speed = next(v for v in held.values() if isinstance(v, list))[0].view(-1).clone()
    log_rate = torch.tensor(math.log(rate), dtype=torch.float64, requires_grad=True)
    logit = torch.tensor(math.log(0.5 / 0.5), dtype=torch.float64, requires_grad=True)
    total, y = torch.zeros((), dtype=torch.float64), x
    for _ in range(every):
        speed = logit.sigmoid() * speed + (CURVATURE * y).detach()
        y = y - log_rate.exp() * speed
        total = total + ((CURVATURE * y).detach() * y).sum() / every
    return torch.cat([g.view(1) for g in torch.autograd.grad(total, [log_rate, logit])])


def test_agreement_is_the_cosine_of_the_hypergradients_of_windows_of_both_lengths() -> None:
    settings = {2: {"every": 3, "examine": 1, "only": ("lr", "momentum"), "normalize": "none"}}
    stack = "sgd(lr=0.1, momentum=0.5)/sgd(lr=1e-300)"
    made = engines.engine(engines.Bowl(seed=2), stack, settings, seed=2)
    made.run(4)  # the first window has closed, and the update that opens the second is made
    sink: Any = made.sink
    before = engines.engine(engines.Bowl(seed=2), stack, settings, seed=2)
    before.run(3)  # where the second window opens
    wanted = torch.cosine_similarity(by_hand(before, 0.1, 3), by_hand(before, 0.1, 6), dim=0)
    assert sink.series(2, "window_agreement") == [pytest.approx(float(wanted), rel=1e-6)]
    assert abs(float(wanted)) < 0.99999


@pytest.mark.parametrize(
    ("stack", "settings"),
    [
        ("sgd(lr=0.1)/hypergradient", {2: {"every": 4, "examine": 2}}),
        ("adam/hypergradient", {2: {"every": 5, "examine": 2, "second_order": True}}),
        ("lstm(hidden=3)/adam", {2: {"every": 5, "examine": 2, "episode": 10}}),
        ("adam/hypergradient/annealing", {2: {"every": 2, "examine": 3}, 3: {"every": 5}}),
    ],
)
def test_a_run_goes_on_from_an_examination_as_if_there_had_been_none(stack: str, settings: Any) -> None:
    plain = {n: {key: x for key, x in each.items() if key != "examine"} for n, each in settings.items()}
    ways = [engines.engine(engines.Noisy(seed=1), stack, one, seed=2) for one in (settings, plain)]
    for made in ways:
        made.run(31)
    assert len(engines.losses(ways[0])) == len(engines.losses(ways[1]))
    for a, b in zip(engines.losses(ways[0]), engines.losses(ways[1]), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    sink: Any = ways[0].sink
    assert sink.series(2, "window_agreement") and all(-1 <= x <= 1.0001 for x in sink.series(2, "window_agreement"))


def test_examinations_are_charged_to_the_level_that_asks() -> None:
    found, made = agreements("sgd(lr=0.1)/hypergradient", {2: {"every": 4, "examine": 5}}, 42)
    spent = made.budget.levels
    assert len(found) == 2 and spent[0].gradient == 42
    assert spent[1].gradient == 2 * (4 + 8)  # the update that opens the window is made already
    assert spent[1].hypergradient == 10 + 2 * 2 and spent[1].products == 2 * PRODUCTS


def test_an_examined_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {2: {"every": 3, "examine": 2}}
    make = lambda: engines.engine(engines.Noisy(seed=1), "adam/hypergradient", settings, seed=2)  # noqa: E731
    engines.goes_on_bit_for_bit(make, 17, 31, tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    ("stack", "settings", "told"),
    [
        ("adam", {1: {"examine": 5}}, "no windows"),
        ("adam/annealing", {2: {"examine": 5}}, "gradient=value has none"),
        ("adam/hypergradient", {2: {"examine": 5, "gradient": "es"}}, "gradient=es has none"),
        ("lstm/adam", {2: {"examine": 5, "curriculum": 2, "every": 5, "episode": 10}}, "one length"),
        ("sgd/sgd", {2: {"examine": 5, "scope": "coordinate"}}, "whole model"),
        ("adam/sgd@a/sgd@a", {2: {"examine": 5}}, "other levels too"),
    ],
)
def test_windows_that_cannot_be_examined_are_refused(stack: str, settings: Any, told: str) -> None:
    with pytest.raises(RecoptError, match=told):
        engines.graph(stack, settings)


def test_the_optimizer_takes_no_examinations() -> None:
    with pytest.raises(RecoptError, match="examine"):
        recopt.Optimizer(torch.nn.Linear(2, 1).parameters(), "adam/sgd", levels={2: {"examine": 5}})


class Swings(engines.Bowl):
    """A straight slope c, by turns 3 and −1: one step on it turns back, two in a row go on."""

    def batch(self, index: int, split: Any = "train") -> Tensor:
        return torch.tensor(-1.0 if index % 2 else 3.0, dtype=torch.float64)

    def loss(self, model: Any, batch: Tensor) -> Tensor:
        return batch * model.weight.sum()


def chosen(task: Any, first: int, steps: int, **settings: Any) -> tuple[list[float], list[str]]:
    """The paces of a level that moves next to nothing, and why it took them."""
    free = {1: {"guard": False}}
    level = {"longest": 32, "every": first, "examine": 2, "normalize": "none", "guard": False, **settings}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = engines.engine(task, "sgd(lr=0.01)/sgd(lr=1e-300)", {**free, 2: level}, seed=2)
        made.run(steps)
    sink: Any = made.sink
    return sink.series(2, "every"), [str(one.message) for one in told if "every is" in str(one.message)]


@pytest.mark.parametrize(("first", "paces"), [(1, [1, 2]), (8, [8, 4, 2])])
def test_the_length_of_windows_is_chosen_where_longer_ones_agree_and_shorter_ones_do_not(
    first: int, paces: list[float]
) -> None:
    found, told = chosen(Swings(seed=2), first, 130)
    assert found == paces and len(told) == len(paces) - 1
    whys = {1: "a window of 2 steps leads farther than two of 1 (mean cosines -1.00, 1.00)",
            8: "two windows of 4 steps lead farther than one of 8 (mean cosines 1.00, 1.00)"}  # fmt: skip
    assert whys[first] in told[0]


def test_chosen_windows_keep_within_bounds_and_episodes() -> None:
    assert chosen(Swings(seed=2), 1, 60, episode=3)[0] == [1]
    assert chosen(engines.Bowl(seed=2), 4, 120)[0] == [4, 2, 1]
    assert chosen(Swings(seed=2), 8, 130, episode=8)[0] == [8, 4, 2]
    assert chosen(engines.Bowl(seed=2), 4, 120, longest=4)[0] == [4, 2, 1]
    assert chosen(Swings(seed=2), 1, 130, longest=2)[0] == [1, 2]


def test_exact_windows_are_chosen_so_short_that_they_do_not_stretch() -> None:
    class Steep(engines.Bowl):
        scale = 110.0  # 1.2 = |1 − 0.01 · 110 · 2| a step

    found, told = chosen(Steep(seed=2), 16, 140, second_order=True)
    assert found[:2] == [16, 8] and "more than 13 steps stretch a change over 10 times" in told[0]


def test_examinations_become_rarer_the_longer_a_length_has_held() -> None:
    made = engines.engine(engines.Noisy(seed=1), "adam/hypergradient", {2: {"every": "auto", "longest": 2}}, seed=2)
    made.run(150)
    sink: Any = made.sink
    assert len(sink.series(2, "window")) == 5  # after 20, 40, 60, 90 and 135 steps
    assert made.budget.levels[1].gradient == 5 * 4  # two windows of 1 step, one of 2


@pytest.mark.filterwarnings("ignore:Level 2:recopt.checking.errors.Notice")
def test_a_run_that_chooses_its_windows_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {2: {"every": "auto", "examine": 1}}
    make = lambda: engines.engine(engines.Noisy(seed=1), "adam/hypergradient", settings, seed=2)  # noqa: E731
    engines.goes_on_bit_for_bit(make, 13, 31, tmp_path / "state.safetensors")


def test_a_spec_has_the_bounds_of_windows_that_are_chosen() -> None:
    level = engines.graph("adam/hypergradient", {2: {"every": "auto"}}).levels[1]
    assert (level.every, level.longest, level.examine) == (1, 64, None)
    learned = engines.graph("lstm/adam", {2: {"every": "auto"}}).levels[1]
    assert (learned.every, learned.episode) == (1, 96)  # which windows of up to 32 divide
    again = engines.graph("adam/hypergradient", {2: level.model_dump(exclude={"moves", "by"}, exclude_none=True)})
    assert again.levels[1] == level


@pytest.mark.parametrize(
    ("stack", "settings", "told"),
    [
        ("adam", {1: {"every": "auto"}}, "leave 'every: auto' out"),
        ("adam/annealing", {2: {"every": "auto"}}, "leave 'every: auto' out"),
        ("adam/sgd", {2: {"longest": 100}}, "power of two"),
        ("adam/sgd", {2: {"longest": 64, "every": 5}}, "cannot begin with every=5: give 4 or 8, or leave"),
        ("adam/sgd", {2: {"longest": 16, "every": 64}}, "cannot begin with every=64: give 16, or leave"),
    ],
)
def test_windows_whose_length_cannot_be_chosen_are_refused(stack: str, settings: Any, told: str) -> None:
    with pytest.raises(RecoptError, match=told):
        engines.graph(stack, settings)


def test_the_optimizer_chooses_no_windows() -> None:
    with pytest.raises(RecoptError, match="every=auto goes back"):
        recopt.Optimizer(torch.nn.Linear(2, 1).parameters(), "adam/sgd", levels={2: {"every": "auto"}})
