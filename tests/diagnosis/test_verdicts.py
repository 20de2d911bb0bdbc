"""Verdicts on runs: each on a run that was made to have that fault, and none on runs in which nothing went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import recopt
from recopt.diagnosis.signals import figures
from recopt.diagnosis.verdict import Verdict
from recopt.diagnosis.verdicts import verdicts
from recopt.diagnosis.view import LevelView, RunView
from recopt.diagnosis.windows import signal_tables
from recopt.plots.page import page
from recopt.tracking.trace import Trace

STEPS = 200
FALLING = np.geomspace(2.0, 0.1, STEPS)
FLAT = np.full(STEPS, 2.0)
ENDS = {"lr": (1.8e-35, 5.5e34), "beta": (1e-13, 1 - 1e-13)}


def level(number: int, name: str, moves: str = "task", how: str = "", **spent: float) -> LevelView:
    start = {"lr": 0.01} if name != "lstm" else {"scale": 0.1}
    return LevelView(number, name, moves, how, start, {}, {"steps": float(STEPS), "skipped_total": 0.0, **spent}, ENDS)


def made(
    losses: Any = FALLING, *levels: LevelView, traces: Mapping[int, Mapping[str, Any]] | None = None,
    accuracy: tuple[float, float] = (0.1, 0.9), stack: str = "", status: str = "FINISHED",
) -> RunView:  # fmt: skip
    """A run with these losses; ``traces`` holds, by level, what else was recorded, a column at every step."""
    trace, levels = Trace(), levels or (level(1, "sgd"),)
    trace.add(0, 0, {"test_accuracy": accuracy[0]})
    for step, loss in enumerate(losses):
        trace.add(0, step, {"loss": float(loss)})
    for number in [one.number for one in levels]:
        for key, values in {"update_norm": np.full(len(losses), 0.05), **(traces or {}).get(number, {})}.items():
            for step, value in enumerate(np.atleast_1d(values)):
                trace.add(number, step, {key: float(value)})
    trace.add(0, len(losses), {"test_accuracy": accuracy[1]})
    about = {"task": "digits", "stack": stack or "/".join(one.name for one in levels), "status": status}
    return RunView("a run", about, {}, tuple(levels), trace)


def only(run: RunView) -> Verdict:
    found = verdicts(run)
    assert len(found) == 1, found
    assert not found[0].text.endswith(".") and not found[0].remedy.endswith(".")
    return found[0]


def way(*points: tuple[int, float]) -> np.ndarray[Any, Any]:
    """A rate that goes through points (step, value), as a logarithm, straight between them."""
    steps, values = zip(*points, strict=True)
    return np.exp(np.interp(np.arange(STEPS), steps, np.log(values)))


TWO = (level(1, "adam"), level(2, "sgd", "adam[lr]"))
LOST = np.concatenate([FALLING[:100], np.full(100, np.nan)])
ROSE = np.concatenate([FALLING[:100], np.geomspace(2, 300, 100)])


def test_a_loss_that_is_lost_is_told_with_its_step_and_asks_for_a_guard_where_there_was_none() -> None:
    found = only(made(LOST, LevelView(1, "sgd", "task", start={"lr": 0.01}, spent={"steps": 200.0})))
    assert (found.kind, found.level, found.step, found.remedy) == ("not finite", 1, 100, "--set level1.guard=true")
    assert "2 at first, 0.451 before" in found.text
    assert "sgd/adagrad" in only(made(LOST)).remedy


def test_a_loss_that_explodes_is_blamed_on_the_first_rate_or_on_who_moved_it() -> None:
    found = only(made(ROSE))
    assert (found.kind, found.level) == ("diverged", 1) and abs(found.step - 100) <= 4
    assert found.remedy == "let a level tune the rate: recopt run 'digits' 'sgd/adagrad'"
    rates = {1: {"lr": way((0, 0.01), (90, 0.01), (95, 10.0), (199, 10.0))}, 2: {"update_norm": np.full(STEPS, 1.4)}}
    found = only(made(ROSE, *TWO, traces=rates))
    assert (found.kind, found.level, found.step) == ("diverged", 2, 92)
    assert "moved adam.lr from 0.01 to 10" in found.text and found.remedy == "--set sgd.lr=0.0004"


@pytest.mark.parametrize(
    ("losses", "step", "says", "remedy"),
    [
        (FLAT, 0, "2 at the end, and was 2 at first", "recopt run 'digits' 'sgd/adagrad'"),
        (FLAT * np.linspace(1, 4, STEPS), 0, "is 7.71 at the end, and was 2", "recopt run 'digits' 'sgd/adagrad'"),
        (np.concatenate([FALLING, FLAT]), 200, "again, after it had fallen", "recopt run 'digits' 'sgd/adagrad'"),
    ],
)  # fmt: skip
def test_a_loss_that_does_not_fall_is_told(losses: Any, step: int, says: str, remedy: str) -> None:
    found = only(made(losses))
    assert (found.kind, found.level, found.step) == ("learned nothing", 1, step)
    assert says in found.text and found.remedy.endswith(remedy)


def test_a_rate_that_was_moved_very_far_is_the_reason_why_nothing_was_learned() -> None:
    rates = {1: {"lr": way((0, 0.01), (10, 0.01), (30, 1e-7), (199, 1e-7))}}
    found = next(one for one in verdicts(made(FLAT, *TWO, traces=rates)) if one.kind == "learned nothing")
    assert (found.level, found.step) == (2, 22) and "moved adam.lr from 0.01 to 1e-07" in found.text
    assert only(made(FLAT, *TWO)).level == 1


def test_a_model_at_chance_is_told_though_its_loss_fell_a_little() -> None:
    settled = np.concatenate([np.linspace(2.4, 2.3, 50), np.full(150, 2.3)])
    found = only(made(settled, accuracy=(0.097, 0.087)))
    assert (found.kind, found.level) == ("chance", 1) and found.remedy.startswith("another strategy on level 1")
    assert "test accuracy is 8.7% at the end and was 9.7% before" in found.text
    assert verdicts(made(settled, accuracy=(0.7, 0.7))) == []


def test_a_rule_that_learns_nothing_over_episodes_is_blamed_on_what_trains_it() -> None:
    levels = (level(1, "lstm"), level(2, "sgd", "lstm", "unroll, every 20 steps, episodes of 100"))
    saw = np.tile(np.linspace(2, 1, 20), 10)
    found = only(made(saw, *levels, traces={2: {"meta_loss": np.full(100, 1.5)}}))
    assert (found.kind, found.level) == ("learned nothing", 2)
    assert found.remedy == "put adam in the place of sgd at level 2: recopt run 'digits' 'lstm/adam'"
    assert verdicts(made(saw, *levels, traces={2: {"meta_loss": np.geomspace(2, 0.5, 100)}})) == []
    hardly = {2: {"meta_loss": np.geomspace(2, 1.9, 100)}}
    assert only(made(saw, *levels, traces=hardly, accuracy=(0.1, 0.1))).kind == "chance"


def test_a_task_that_the_guard_freezes_is_told_once_from_the_first_bad_step_of_the_spell() -> None:
    first = level(1, "sgd", frozen_tasks=1.0, skipped_total=150.0, restored_total=40.0)
    run = made(np.concatenate([FALLING[:50], np.full(150, np.inf)]), first)
    for step in (3, *range(50, 200)):
        run.trace.add(1, step, {"skipped": 1.0})
    found = only(run)
    assert (found.kind, found.step) == ("frozen", 50)
    assert "150 evaluations were skipped and 40 updates taken back by the guard" in found.text


def test_a_rate_at_its_bound_is_told_with_the_step_at_which_it_came_there() -> None:
    rates = {1: {"lr": way((0, 0.01), (100, 1.8e-35), (199, 1.8e-35))}}
    found = verdicts(made(FALLING, *TWO, traces=rates))[-1]
    assert (found.kind, found.level, found.step) == ("at its bound", 2, 100)
    assert "moved adam.lr from 0.01 to 1.8e-35, the end of its range" in found.text


CIRCLE = (level(1, "a"), level(2, "b", "a[lr]"), level(3, "a", "b[lr]"))


def test_a_rate_that_vanishes_in_a_circle_of_levels_is_told_with_the_circle() -> None:
    rates = way((0, 0.01), (50, 0.1), (120, 1e-8), (199, 1e-12))
    run = made(FALLING, *CIRCLE, traces={1: {"lr": rates, "update_norm": rates}}, stack="a/b[lr]/a[lr]")
    found = only(run)
    assert (found.kind, found.level, found.step) == ("vanished", 2, 50)
    assert "moved a.lr from 0.1 to 1e-12, so the model stands still from step 89 on" in found.text
    assert "levels 2 and 3 move each other" in found.text
    assert found.remedy == "leave level 3 out: recopt run 'digits' 'a/b[lr]'"


def test_a_level_that_moves_itself_into_a_divergence_is_told_to_get_another_strategy() -> None:
    levels = (level(1, "lstm"), level(2, "lstm", "lstm", "unroll, every 20 steps, episodes of 100"))
    found = only(made(ROSE, *levels, stack="lstm@a/lstm@a"))
    assert found.level == 2 and "it moves itself" in found.text
    assert found.remedy == "put adam in the place of lstm at level 2: recopt run 'digits' 'lstm@a/adam'"


def test_a_level_that_makes_no_step_or_has_no_signal_is_told() -> None:
    found = only(made(FALLING, TWO[0], level(2, "sgd", "adam[lr]", "every 500 steps", steps=0.0)))
    assert (found.kind, found.level) == ("no step", 2) and "every 500 steps" in found.text
    assert found.remedy == "--set level2.every=10, or more --steps"
    found = only(made(FALLING, TWO[0], level(2, "sgd", "init", "every 500 steps, episodes of 500", steps=0.0)))
    assert found.remedy == "--set level2.episode=10, or more --steps"
    found = only(made(FALLING, TWO[0], level(2, "sgd", "adam", "online, at every step", steps=0.0)))
    assert found.remedy == "more --steps"
    found = only(made(FALLING, *TWO, traces={2: {"signal_norm": np.zeros(STEPS)}}))
    assert (found.kind, found.level, found.remedy) == ("no signal", 2, "leave level 2 out: recopt run 'digits' 'adam'")
    found = only(made(FLAT, traces={1: {"signal_norm": np.zeros(STEPS)}}))
    assert (found.kind, found.level) == ("no signal", 1) and "depend on the model's parameters" in found.remedy


def test_a_level_whose_steps_lead_nowhere_is_told_with_a_rate_that_would() -> None:
    tiny = {2: {"signal_norm": np.ones(STEPS), "update_norm": np.full(STEPS, 1e-9)}}
    found = only(made(FALLING, *TWO, traces=tiny))
    assert (found.kind, found.level, found.remedy) == ("idle", 2, "--set sgd.lr=500000")


def test_a_level_that_hears_only_noise_is_told_if_its_value_went_no_farther_than_noise_takes_it() -> None:
    heard = {"signal_cosine": np.random.default_rng(1).choice([-1.0, 1.0], STEPS), "update_norm": np.full(STEPS, 0.05)}
    wander = way((0, 0.01), (100, 0.008), (199, 0.012))
    found = only(made(FALLING, *TWO, traces={1: {"lr": wander}, 2: heard}))
    assert (found.kind, found.level, found.step) == ("noise", 2, 0)
    assert "over 200 steps), and it moved adam.lr from 0.01 to 0.012, as noise would" in found.text
    assert found.remedy == "--set level2.every=20, or larger batches"
    far = {1: {"lr": way((0, 0.01), (100, 0.1), (199, 0.01))}, 2: heard}
    first = {**heard, "signal_cosine": np.where(np.arange(STEPS) < 40, 1.0, heard["signal_cosine"])}
    early = {1: {"lr": way((0, 0.01), (9, 0.1), (199, 0.1))},
             2: {**heard, "update_norm": np.where(np.arange(STEPS) < 9, 1.0, 0.05)}}  # fmt: skip
    for traces in (far, early, {1: {"lr": wander}, 2: first}):
        assert verdicts(made(FALLING, *TWO, traces=traces)) == []


def test_figures_on_signals_are_those_of_what_is_recorded() -> None:
    cosines = np.concatenate([np.ones(40), np.zeros(160)])
    rates = {1: {"lr": way((0, 0.01), (100, 1.8e-35), (199, 1.8e-35))}, 2: {"signal_cosine": cosines}}
    run = made(FALLING, TWO[0], level(2, "sgd", "adam[lr]", bounded_total=50.0, skipped_total=50.0), traces=rates)
    (found,) = figures(run)
    assert (found.at_first, found.agreement, found.cut, found.left_out, found.bounds) == (1.0, 0.2, 0.25, 0.2, 1.0)
    assert found.ratio == pytest.approx(0.5) and found.error == pytest.approx(0.4 / np.sqrt(200))
    assert found.row() == ("2", "sgd", "+1.00", "+0.20 ± 0.06", "0.50", "25%", "20%", "100%")
    text = page([run])
    assert "<h2>Signals that follow each other</h2>" in text and "+0.20 ± 0.06" in text


def test_levels_whose_steps_are_taken_back_left_out_or_cut_are_told() -> None:
    first = level(1, "sgd", restored_total=150.0)
    found = only(made(FALLING, first, traces={1: {"restored": np.arange(150)}}))
    assert (found.kind, found.level) == ("taken back", 1) and "150 of its 200 steps" in found.text
    run = made(FALLING, *TWO)
    for step in range(10, 200, 2):
        run.trace.add(2, step, {"null_step": 1.0})
    found = only(run)
    assert (found.kind, found.level, found.step, found.remedy) == ("taken back", 2, 10, "--set sgd.lr=0.001")
    found = only(made(FALLING, TWO[0], level(2, "sgd", "adam[lr]", skipped_total=199.0)))
    assert (found.kind, found.level) == ("left out", 2)
    cut = made(FALLING, TWO[0], level(2, "sgd", "adam[lr]", bounded_total=180.0),
               traces={2: {"update_norm": np.ones(STEPS)}})  # fmt: skip
    found = only(cut)
    assert (found.kind, found.level, found.step, found.remedy) == ("cut", 2, 0, "--set sgd.lr=0.0005")


def test_faults_stand_in_the_order_in_which_they_began_and_what_came_after_a_divergence_is_left_out() -> None:
    late = level(1, "sgd", restored_total=150.0)
    run = made(LOST, late)
    for step in range(120, 200):
        run.trace.add(1, step, {"restored": 1.0})
    assert [one.kind for one in verdicts(run)] == ["not finite"]
    tiny = {2: {"signal_norm": np.ones(STEPS), "update_norm": np.full(STEPS, 1e-9)}}
    assert [one.level for one in verdicts(made(FLAT, *TWO, traces=tiny))] == [2, 1]


NOISE = np.random.default_rng(0)


@pytest.mark.parametrize(
    "run",
    [
        made(FALLING),
        made(FALLING[:5]),
        made(FLAT[:20], accuracy=(0.1, 0.1)),
        made([]),
        made(np.linspace(2.0, 1.9, STEPS) + 0.02 * NOISE.standard_normal(STEPS), accuracy=(0.1, 0.12)),
        made(np.where(np.arange(STEPS) == 50, np.nan, FALLING)),
        made(np.where(np.arange(STEPS) == 50, 100.0, FALLING)),
        made(FALLING, *TWO, traces={1: {"lr": way((0, 1e-7), (50, 0.05), (199, 0.01))}}),
        made(np.geomspace(2, 1e-9, STEPS), *TWO,
             traces={1: {"lr": way((0, 0.1), (199, 1e-9)), "update_norm": way((0, 0.1), (100, 1e-9), (199, 1e-12))}}),
        made(FALLING, level(1, "adam", bounded_total=13.0, skipped_total=3.0, restored_total=1.0),
             level(2, "sgd", "adam[lr]", bounded_total=9.0)),
        made(FALLING, level(1, "adam"), level(2, "annealing", "adam", "trials, every 20 steps", steps=9.0)),
        made(FALLING, level(1, "adam"), level(2, "sgd", "adam[lr]", "every 500 steps", steps=0.0), status="RUNNING"),
        made(-FALLING[::-1]),
        made(FALLING + 0.5 * NOISE.standard_normal(STEPS)),
    ],
)  # fmt: skip
def test_a_run_in_which_nothing_went_wrong_has_no_verdict(run: RunView) -> None:
    assert verdicts(run) == []


@pytest.mark.parametrize(
    ("stack", "settings", "expected"),
    [
        ("adam@a/hypergradient@b/adam@a", [], []),
        ("adam@a/hypergradient@b/adam@a", ["level3.trust=1e9"], [("vanished", 2)]),
        ("sgd(lr=1e-9)", [], [("learned nothing", 1)]),
        ("sgd(lr=1e3)", ["level1.guard=false"], [("diverged", 1)]),
        ("adam(lr=1e-7)/sgd(lr=1e-9)", [], [("learned nothing", 1), ("idle", 2)]),
        ("adam/hypergradient/annealing", [], []),
        ("adam(lr=100)/adagrad", [], []),
    ],
)
def test_runs_on_digits_are_judged_as_they_went(
    stack: str, settings: Sequence[str], expected: list[tuple[str, int]]
) -> None:
    result = recopt.run("digits", stack, steps=600, settings=settings, track=False, progress=False)
    assert [(one.kind, one.level) for one in result.verdicts] == expected
    assert all(str(one) in repr(result) for one in result.verdicts)


def examined(how: str, agreement: Sequence[float], radius: Sequence[float]) -> RunView:
    """A run whose level 2 had windows of 20 steps examined."""
    two = (level(1, "sgd"), level(2, "hypergradient", "sgd[lr]", how))
    run = made(FALLING, *two)
    for step, (a, r) in enumerate(zip(agreement, radius, strict=True)):
        run.trace.add(2, 40 * step, {"window": 20.0, "window_agreement": a, "radius": r})
    return run


def test_windows_that_pull_another_way_than_longer_ones_are_to_be_longer() -> None:
    found = only(examined("unroll, second derivatives dropped, every 20 steps", [-0.8, -0.9, -0.7], [1.0] * 3))
    assert (found.kind, found.level, found.remedy) == ("short-sighted", 2, "--set level2.every=40")


def test_exact_unrolls_through_steps_that_stretch_are_to_be_shorter_or_estimated() -> None:
    found = only(examined("unroll, every 20 steps", [0.9] * 3, [1.5, 1.6, 1.7]))
    assert (found.kind, found.level) == ("chaotic", 2)
    assert found.remedy == "--set level2.every=4, or level2.gradient=es"  # 1.6⁴ = 6.6, 1.6⁵ = 10.5
    assert only(examined("unroll, episodes of 100", [0.9] * 3, [1.6] * 3)).remedy.endswith("gradient=pes")


def test_windows_that_agree_are_no_fault_nor_is_a_radius_of_what_no_derivative_passes_through() -> None:
    dropped = "unroll, second derivatives dropped, every 20 steps"
    for run in (examined("unroll", [0.9] * 3, [1.1] * 3), examined(dropped, [0.2, -0.3, 0.1], [1.6] * 3)):
        assert not verdicts(run)
        assert [cells[3] for _, _, rows in signal_tables(run) for cells in rows if len(cells) == 6]
        assert "Windows of T and 2T steps" in page([run])


def test_a_level_that_never_stepped_is_not_blamed_for_losses() -> None:
    rule = level(1, "lstm"), level(2, "sgd", "lstm", "every 200 steps, episodes of 200", steps=0.0)
    assert {one.level for one in verdicts(made(ROSE, *rule)) if one.kind == "diverged"} == {1}
