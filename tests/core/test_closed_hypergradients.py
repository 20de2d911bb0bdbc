"""Closed hypergradients against autograd through the same text, and against central differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recopt import Params, Rule
from recopt.contracts import trees
from recopt.rules.numbers import reads

from ..analytic import RULES, InPlace, OnNumbers, Taped, flat, made, names, random

WIDTH = 1e-3


def after(rule: Rule, coords: Params, start: tuple[Params, Any], updates: Sequence[Any]) -> Params:
    """The point that ``updates`` (gradients and factors) reach from ``start``, with the rule at ``coords``."""
    tape = Taped(rule, coords)
    tape.point, tape.state = list(start[0]), trees.detach(start[1])
    for grads, scale in updates:
        tape.step(grads, scale)
    return tape.point


def by_autograd(value: Callable[[Params], Tensor], coords: Params) -> list[float]:
    leaves = [c.clone().requires_grad_() for c in coords]
    found = torch.autograd.grad(value(leaves), leaves, allow_unused=True)
    return [0.0 if g is None else float(g) for g in found]


def by_differences(value: Callable[[Params], Tensor], coords: Params) -> list[float]:
    out = []
    for i in range(len(coords)):
        at = []
        for n in (-2, -1, 1, 2):
            moved = list(coords)
            moved[i] = coords[i] + n * WIDTH
            with torch.no_grad():
                at.append(float(value(moved)))
        out.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * WIDTH))
    return out


def off_the_kink(*states: dict[str, Any]) -> None:
    """As if a larger rate had been met before: at the largest one so far there is no derivative."""
    for state in states:
        if isinstance(state.get("largest"), float):
            state["largest"] = 1.0


def compare(found: list[float], rule: Rule, moved: frozenset[str], value: Callable[[Params], Tensor]) -> None:
    coords = [p.detach().clone() for p in rule.parameters()]
    for expected in (by_autograd(value, coords), by_differences(value, coords)):
        only = [e if name in moved else 0.0 for name, e in zip(names(rule), expected, strict=True)]
        assert found == pytest.approx(only, rel=1e-8, abs=1e-9)


def _moved(text: str) -> list[frozenset[str]]:
    """The hyperparameters that may be moved together: the one that the updates are a multiple of, or all."""
    rule = made(text)
    each = [frozenset({rule.linear} if rule.linear else ()), frozenset(names(rule))]
    return sorted({moved for moved in each if moved}, key=len)


def inner(point: Params, cotangents: Params) -> Tensor:
    return torch.stack([(p * c).sum() for p, c in zip(point, cotangents, strict=True)]).sum()


MOVED = [pytest.param(text, moved, id=f"{text}-{','.join(sorted(moved))}") for text in RULES for moved in _moved(text)]
MATRICES = [
    pytest.param(text, moved, id=f"{text}-{','.join(sorted(moved))}")
    for text in (
        "muon",
        "muon(nesterov=false)",
        "muon(weight_decay=0.1)",
        "paced",
        "paced(base=muon)",
        "paced(base=factored)",
    )
    for moved in _moved(text)
]
WINDOWS = [text for text in RULES if made(text).linear and not reads(made(text)).point]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize(("text", "moved"), MOVED + MATRICES)
def test_of_one_update_on_columns(text: str, moved: frozenset[str], scale: float) -> None:
    rule = made(text)
    columns = InPlace(rule, moved, 1)
    off_the_kink(columns.part.strategy)
    for step in range(5):
        start = [p.clone() for p in columns.point], trees.tree_map(torch.clone, columns.part.strategy)
        grads, cotangents = random(2 * step + 1), random(2 * step + 2)
        columns.step(grads, scale)
        found = columns.slopes(cotangents)
        compare(found, rule, moved, lambda c, s=start, g=grads, k=cotangents: inner(after(rule, c, s, [(g, scale)]), k))


@pytest.mark.parametrize("base", ["adam", "mixed", "factored"])
@pytest.mark.parametrize("moved", _moved("paced(weight_decay=0.1)"))
def test_of_one_update_whose_rate_falls_with_noise(base: str, moved: frozenset[str]) -> None:
    shrink = 3 * (moved == {"lr"})  # as betas move, signs turn, and with them what shrinks
    rule, compared = made(f"paced(base={base},shrink={shrink},weight_decay=0.1,steps=60)"), 0
    columns = InPlace(rule, moved, 1)
    columns.part.strategy["calm"] = 0.8  # as of networks, which have more than one matrix
    for step in range(58):
        start = [p.clone() for p in columns.point], trees.tree_map(torch.clone, columns.part.strategy)
        grads, k = [g + 1.2 * math.sin(step) for g in random(2 * step + 1)], random(2 * step + 2)
        columns.step(grads)
        found = columns.slopes(k)
        if 0.1 < columns.part.strategy["noise"][0] < 0.9:  # far enough from the ends of its lines
            compare(found, rule, moved, lambda c, s=start, g=grads, k=k: inner(after(rule, c, s, [(g, 1.0)]), k))
            compared += 1
    assert compared > 3


@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize("text", [*WINDOWS, "muon", "paced", "paced(base=muon)", "paced(base=factored)"])
def test_of_a_window_of_updates_on_columns(text: str, window: int) -> None:
    rule = made(text)
    assert rule.linear is not None
    moved, columns = frozenset({rule.linear}), InPlace(made(text), frozenset({rule.linear}), window)
    for grads in random(1), random(2):  # the window does not begin at the rule's own beginning
        columns.step(grads)
    columns.part.recorded = 0
    start = [p.clone() for p in columns.point], trees.tree_map(torch.clone, columns.part.strategy)
    made_of: list[Any] = []
    for step in range(window):
        made_of.append((random(10 + step), 1.0 + step))
        columns.step(*made_of[-1])
        cotangents = random(20 + step)
        compare(columns.slopes(cotangents), rule, moved,
                lambda c, u=list(made_of), k=cotangents: inner(after(rule, c, start, u), k))  # fmt: skip


@pytest.mark.parametrize(("text", "moved"), MOVED)
def test_of_one_update_on_numbers(text: str, moved: frozenset[str]) -> None:
    rule = made(text)
    numbers, columns = OnNumbers(rule, moved, 1), InPlace(rule)
    off_the_kink(columns.part.strategy, *numbers.part.strategy["each"])
    for step in range(5):
        start = [p.clone() for p in columns.point], trees.tree_map(torch.clone, columns.part.strategy)
        grads, cotangents = random(2 * step + 1), random(2 * step + 2)
        numbers.step(grads)
        columns.step(grads)
        assert flat(columns.point).tolist() == pytest.approx(numbers.point, rel=1e-12)
        compare(numbers.slopes(cotangents), rule, moved,
                lambda c, s=start, g=grads, k=cotangents: inner(after(rule, c, s, [(g, 1.0)]), k))  # fmt: skip


@pytest.mark.parametrize("text", WINDOWS)
def test_of_a_window_of_updates_on_numbers(text: str) -> None:
    rule = made(text)
    assert rule.linear is not None
    moved = frozenset({rule.linear})
    numbers, columns = OnNumbers(rule, moved, 3), InPlace(rule)
    start = [p.clone() for p in columns.point], trees.tree_map(torch.clone, columns.part.strategy)
    made_of: list[Any] = []
    for step in range(3):
        made_of.append((random(10 + step), 1.0))
        numbers.step(made_of[-1][0])
        cotangents = random(20 + step)
        compare(numbers.slopes(cotangents), rule, moved,
                lambda c, u=list(made_of), k=cotangents: inner(after(rule, c, start, u), k))  # fmt: skip


def test_of_an_update_of_numbers_that_was_shortened() -> None:
    rule = made("adam(weight_decay=0.1)")
    moved = frozenset(names(rule))
    for keep in (1.0, 0.25):
        numbers = OnNumbers(rule, moved, 1)
        start = random(0), rule.init(random(0))
        grads, cotangents = random(1), random(2)
        before = list(numbers.point)
        numbers.step(grads)
        update = [a - b for a, b in zip(numbers.point, before, strict=True)]
        assert numbers.mover.shorten(numbers.part, update, keep) == pytest.approx([keep * u for u in update])
        compare(numbers.slopes(cotangents), rule, moved,
                lambda c, s=start, g=grads, k=keep, x=cotangents: inner(after(rule, c, s, [(g, k)]), x))  # fmt: skip
