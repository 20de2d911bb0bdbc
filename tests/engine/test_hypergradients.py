"""Every level's hypergradient against central differences of fourth order, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recopt.checking.errors import RecoptError
from recopt.core import guard

from ..differences import EXACT, Odd, Settings, Wave, engine, signal_of, worst

NORMALS = ["none", "clip", "clip_each", "rms", "rms_all", "unit", "log_sign"]
CASES: dict[str, tuple[str, Settings, int]] = {
    "level 2": ("rule/rule", {2: {**EXACT, "every": 4}}, 2),
    "level 2, one step": ("rule/rule", {2: {**EXACT, "every": 1}}, 2),
    "level 2, learned": ("net/rule", {2: {**EXACT, "every": 4, "episode": 8}}, 2),
    "level 2 under level 3": ("rule/rule/rule", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 2}}, 2),
    "level 3": ("rule/rule/rule", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 3}}, 3),
    "level 3, learned in the middle": ("rule/net/rule", {2: {**EXACT, "every": 2}, 3: {**EXACT, "every": 3}}, 3),
    "level 4": ("rule/rule/rule/rule", {n: {**EXACT, "every": 2} for n in (2, 3, 4)}, 4),
    "self-loop": ("net@a/net@a", {2: {**EXACT, "every": 4, "trust": 10.0}}, 2),
    "self-loop over a rate": ("rule@a/rule@a", {2: {**EXACT, "every": 4, "trust": 10.0}}, 2),
    "self-loop at level 3": (
        "rule/rule@a/rule@a", {2: {**EXACT, "every": 2}, 3: {**EXACT, "every": 3, "trust": 10.0}}, 3),
    "through a learned rule's updates of a learned rule": (
        "net@a/net@b/rule", {2: {**EXACT, "every": 2}, 3: {**EXACT, "every": 3}}, 3),
    "circle of learned rules": (
        "net@a/net@b/net@a", {2: {**EXACT, "every": 2}, 3: {**EXACT, "every": 3, "trust": 10.0}}, 3),
    "tied": ("rule@a[0.*]+rule@a[2.*]/rule", {3: {**EXACT, "every": 4}}, 3),
    "groups, two slots": ("rule@a[0.*]+net@b[2.*]/rule", {3: {**EXACT, "every": 3}, 4: {**EXACT, "every": 3}}, 4),
    "groups of hyperparameters": ("rule/rule[lr]+rule[beta]", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 3}}, 3),
    "two slots, one strategy, level 3": (
        "rule@a[0.*]+rule@b[2.*]/rule@c/rule@d", {n: {**EXACT, "every": 2} for n in (3, 4, 5)}, 5),
    "last": ("rule/rule", {2: {**EXACT, "every": 4, "objective": "last"}}, 2),
    "improvement": ("rule/rule", {2: {**EXACT, "every": 4, "objective": "improvement"}}, 2),
    "improvement, level 3": (
        "rule/rule/rule", {2: {**EXACT, "every": 2, "objective": "improvement"}, 3: {**EXACT, "every": 2}}, 3),
    "held-out": ("rule/rule", {2: {**EXACT, "every": 4, "on": "valid"}}, 2),
    "held-out, level 3": ("rule/rule/rule", {2: {**EXACT, "every": 2, "on": "valid"}, 3: {**EXACT, "every": 2}}, 3),
    "penalties": ("rule/rule", {2: {**EXACT, "every": 4, "penalty_update": 0.3, "penalty_moved": 0.2}}, 2),
    "penalties, level 3": (
        "rule/rule/rule",
        {2: {**EXACT, "every": 2, "penalty_update": 0.3, "penalty_moved": 0.2}, 3: {**EXACT, "every": 2}}, 3),
}  # fmt: skip

LAST = {**EXACT, "every": 4, "objective": "last"}
BESIDE: dict[str, tuple[str, Settings, int]] = {
    "the first of two groups": ("rule@a[0.*]+rule@b[2.*]/rule", {3: LAST, 4: None}, 3),
    "the second, beside a learned one": ("net@a[0.*]+rule@b[2.*]/rule", {3: None, 4: LAST}, 3),
    "a tied one": ("rule@a[0.weight]+rule@a[0.bias]+net@b[2.*]/rule", {4: LAST, 5: None}, 4),
    "level 3": ("rule@a[0.*]+rule@b[2.*]/rule@c/rule@d",
                {3: {**EXACT, "every": 2}, 4: None, 5: {**EXACT, "every": 2}}, 4),
}  # fmt: skip
BACK: dict[str, tuple[str, Settings, int]] = {
    "level 1": ("rule/rule", {1: {"null_step": True}, 2: {**EXACT, "every": 6}}, 2),
    "level 2": ("rule/rule/rule", {2: {**EXACT, "every": 2, "null_step": True}, 3: {**EXACT, "every": 6}}, 3),
}


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("name", BESIDE)
def test_exact_where_a_level_moves_one_of_the_groups_of_a_task(name: str, tasks: int) -> None:
    assert worst(*BESIDE[name], windows=2, tasks=tasks) < 1e-8


@pytest.mark.parametrize("name", BACK)
def test_exact_where_steps_are_taken_back(name: str) -> None:
    assert worst(*BACK[name]) < 1e-8


@pytest.mark.parametrize("stack", ["rule/rule", "rule@a[0.*]+rule@b[2.*]/rule"])
def test_exact_for_the_other_tasks_where_a_batch_of_one_is_no_number(stack: str) -> None:
    # Its last steps are not taken back: one such batch alone.
    settings: Settings = {n: {**EXACT, "every": 4} for n in ((2,) if stack == "rule/rule" else (3, 4))}
    settings = {**settings, 1: {"guard": True}}
    assert worst(stack, settings, max(settings), tasks=4, task=Odd) < 1e-8


@pytest.mark.parametrize("every", [3, 8])
def test_steps_inside_an_exact_window_are_refused(every: int) -> None:
    with pytest.raises(RecoptError, match=r"Level \d .*steps within its windows.*let them step together"):
        engine("rule@a[0.*]+rule@b[2.*]/rule", {3: LAST, 4: {**LAST, "every": every}})
    with pytest.raises(RecoptError, match=r"Level \d .*steps within its windows"):
        engine("rule/rule[lr]+rule[beta]", {2: LAST, 3: {**LAST, "every": every}})


def test_exact_levels_beside_those_that_drop_second_derivatives_are_refused() -> None:
    with pytest.raises(RecoptError, match=r"Level 3 .*level 4 .*drops second derivatives.*level4.second_order=true"):
        engine("rule@a[0.*]+rule@b[2.*]/rule", {3: LAST, 4: {**LAST, "second_order": False}})


def test_exact_where_the_guard_skips_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Wave, model: Any, batch: Any) -> Tensor:
        return plain(self, model, batch) + torch.where(batch[0][0, 0] > 1, float("inf"), 0.0)

    plain = Wave.loss
    monkeypatch.setattr(Wave, "loss", loss)
    # The loss that stands in for one that is not finite is a constant for the derivative.
    monkeypatch.setattr(guard, "worst", lambda memory, loss, wrong: torch.where(wrong.view(loss.shape), 3.0, loss))
    stack, settings = "rule/rule", {1: {"guard": True}, 2: {**EXACT, "every": 8}}
    made = engine(stack, settings, tasks=3)
    signal_of(made, 2)
    assert made.state.guard is not None
    assert made.state.guard.counts["skipped"] > 1
    assert worst(stack, settings, 2, tasks=3) < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_exact(name: str) -> None:
    # At level 4 the hypergradient is so small that rounding in the differences shows.
    assert worst(*CASES[name]) < (1e-7 if name == "level 4" else 1e-8)


@pytest.mark.parametrize("name", ["level 2", "level 3", "self-loop", "tied"])
def test_exact_in_a_later_window(name: str) -> None:
    assert worst(*CASES[name], windows=2) < 1e-8


@pytest.mark.parametrize("name", ["level 2", "level 3"])
def test_exact_over_tasks(name: str) -> None:
    assert worst(*CASES[name], tasks=3) < 1e-8


STAGGER = {**EXACT, "every": 3, "episode": 6, "stagger": True}
BY_TURNS: dict[str, tuple[str, Settings, int]] = {
    "level 2": ("rule/rule", {2: STAGGER}, 2),
    "level 2, improvement": ("net/rule", {2: {**STAGGER, "objective": "improvement"}}, 2),
    "level 3": ("rule/rule/rule", {2: STAGGER, 3: {**EXACT, "every": 2}}, 3),
    "level 3, improvement, groups": (
        "rule@a[0.*]+rule@b[2.*]/rule@c/rule@d",
        {3: {**STAGGER, "objective": "improvement"}, 4: {**STAGGER, "objective": "improvement"},
         5: {**EXACT, "every": 2}}, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_TURNS)
def test_exact_where_tasks_start_by_turns(name: str) -> None:
    # Windows of level 2 open at a fresh start of some of the tasks; one of level 3 goes on over several of them.
    assert worst(*BY_TURNS[name], windows=2 if "level 3" in name else 3, tasks=3) < 1e-8


TEACH: dict[str, Any] = {**EXACT, "every": 3, "teacher": "t", "imitate": 5, "imitate_weight": 0.7}
TAUGHT: dict[str, tuple[str, Settings, int]] = {
    "level 2": ("net/rule", {2: TEACH}, 2),
    "level 2, by turns": ("net/rule", {2: {**TEACH, "episode": 6, "stagger": True}}, 2),
    "level 3": ("rule/rule/rule", {2: TEACH, 3: {**EXACT, "every": 2}}, 3),
    "a taught level 3": ("rule/rule/rule", {2: {**EXACT, "every": 2}, 3: {**TEACH, "every": 2}}, 3),
    "groups": ("rule@a[0.*]+net@b[2.*]/rule", {3: TEACH, 4: TEACH}, 4),
}


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("name", TAUGHT)
def test_exact_with_a_teacher(name: str, tasks: int) -> None:
    if tasks > 1 or "turns" not in name:
        assert worst(*TAUGHT[name], windows=2, tasks=tasks) < 1e-8


@pytest.mark.parametrize("normal", NORMALS)
@pytest.mark.parametrize("normalized", [1, 2])
def test_exact_with_normalizers(normal: str, normalized: int) -> None:
    stack, settings, number = CASES["level 3"]
    changed = {**settings, normalized: {**settings.get(normalized, {}), "normalize": normal}}
    assert worst(stack, changed, number) < 1e-6


def test_the_cosine_is_one_where_updates_agree_with_what_came_after() -> None:
    stack, settings, _ = CASES["level 2"]
    signal = signal_of(engine(stack, {2: {**settings[2], "normalize": "cosine"}}), 2)
    assert signal.bound is not None
    assert signal.grads is not None
    assert 0 < float(signal.grads[0].abs()) <= float(signal.bound)


def test_nothing_differentiates_through_a_cosine() -> None:
    stack, settings, _ = CASES["level 3"]
    with pytest.raises(RecoptError, match=r"Level 3 .*level 2 .*has normalize=cosine"):
        engine(stack, {**settings, 2: {**settings[2], "normalize": "cosine"}})
    with pytest.raises(RecoptError, match=r"Level 3 .*not defined"):
        engine(stack, {**settings, 3: {**settings[3], "normalize": "cosine"}})
