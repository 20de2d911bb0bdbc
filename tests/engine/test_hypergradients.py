"""Every level's hypergradient against central differences of fourth order, in float64."""

from __future__ import annotations

from typing import Any

import pytest

from recopt.contracts.errors import RecoptError

from ..differences import EXACT, engine, signal_of, worst

NORMALS = ["none", "clip", "clip_each", "rms", "rms_all", "unit", "log_sign"]
CASES: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
    "level 2": ("rule/rule", {2: {**EXACT, "every": 4}}, 2),
    "level 2, one step": ("rule/rule", {2: {**EXACT, "every": 1}}, 2),
    "level 2, learned": ("net/rule", {2: {**EXACT, "every": 4, "episode": 8}}, 2),
    "level 2 under level 3": ("rule/rule/rule", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 2}}, 2),
    "level 3": ("rule/rule/rule", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 3}}, 3),
    "level 3, learned in the middle": ("rule/net/rule", {2: {**EXACT, "every": 2}, 3: {**EXACT, "every": 3}}, 3),
    "level 4": ("rule/rule/rule/rule", {n: {**EXACT, "every": 2} for n in (2, 3, 4)}, 4),
    "self-loop": ("net@a/net@a", {2: {**EXACT, "every": 4, "trust": 10.0}}, 2),
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
BY_TURNS: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
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
TAUGHT: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
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
    with pytest.raises(RecoptError, match=r"Level 3 .*level 2 has normalize=cosine"):
        engine(stack, {**settings, 2: {**settings[2], "normalize": "cosine"}})
    with pytest.raises(RecoptError, match=r"Level 3 .*not defined"):
        engine(stack, {**settings, 3: {**settings[3], "normalize": "cosine"}})
