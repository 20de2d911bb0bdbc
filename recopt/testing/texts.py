"""Checks of analytic rules (:class:`recopt.Rule`): one text, the same everywhere, and what it promises of itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State, Trial
from ..levels.parts import Part
from ..rules.columns import ColumnMover
from ..rules.numbers import NumberMover, NumberSpace, made_of_numbers
from ..rules.rule import Rule, text_of
from . import probe
from .probe import PLAIN, Broken, Make

STEPS = 5
EXACT = 1e-10
"""Relative difference of back ends that rounding may make in so few steps."""
AGAIN = 1e-6
"""That of an update and of the difference of two points."""


def back_ends(make: Make) -> None:
    """Rules only: on tensors, in place on columns and on floats the text gives the same, and only states change."""
    strategy = make().double()
    rule = text_of(strategy)
    if rule is None or not made_of_numbers(strategy):
        return
    space, shapes = NumberSpace(rule), ((), ()) if rule.whole else PLAIN
    numbers, at = space.first(), {name: probe.some(shapes, 1) for name in ("tensors", "place")}
    columns, floats = ColumnMover(rule, space, frozenset(), 0), NumberMover(rule, space, frozenset(), 0)
    state, row = rule.init(at["tensors"]), _row(at["tensors"])
    held, counted = Part([0, 1], columns.begin(at["place"])), Part([0], floats.begin(row))
    for step in range(STEPS):
        grads = [g * 3.0 ** (step - 2) for g in probe.some(shapes, 40 + step)]
        kept = [g.clone() for g in grads]
        with torch.no_grad():
            delta, state = rule(at["tensors"], [Trial(at["tensors"], None, grads)], state, probe.generator())
            columns.step(held, at["place"], grads, numbers, 1.0)
        update = floats.step(counted, row, _row(grads), numbers.value) or [math.nan] * len(row)
        at["tensors"] = [p + d for p, d in zip(at["tensors"], delta, strict=True)]
        row = [p + u for p, u in zip(row, update, strict=True)]
        if not probe.same(grads, kept):
            raise Broken("its text changes the gradients: what ops may overwrite (their first argument) must be state.")
        _alike(at["tensors"], at["place"], "in place on columns", step)
        _alike([_column(_row(at["tensors"]))], [_column(row)], "on plain numbers", step)


def _alike(one: Params, other: Params, where: str, step: int) -> None:
    if not probe.close(one, other, EXACT):
        raise Broken(
            f"{where} its text gives another point at step {step + 1} than on tensors: use what ops return, not what "
            "they were given, treat each entry by itself, and branch on nothing but settings and counts."
        )


def reads(make: Make) -> None:
    """Rules only: the last update is found again, of matrices and in later steps too, from what is known to be read."""
    strategy = make().double()
    rule = text_of(strategy)
    if rule is None or not made_of_numbers(strategy):
        return
    space, point = NumberSpace(rule), probe.some(PLAIN, 1)
    columns = ColumnMover(rule, space, frozenset(), 0)
    numbers, held = space.first(), Part([0, 1], columns.begin(point))
    for step in range(8 * STEPS):
        before = [p.clone() for p in point]
        columns.step(held, point, probe.some(PLAIN, 40 + step), numbers, 1.0)
        found = columns.last(held, point, numbers)
        if found is not None and not probe.close(found, torch._foreach_sub(point, before), AGAIN):
            raise Broken(
                f"its update of step {step + 1}, computed again from the state that it led to, is another: "
                'say also_reads = ("grads",) if delta reads gradients of matrices or in later steps only, '
                '("inside",) if it reads the point.'
            )


def linear(make: Make) -> None:
    """Rules only: updates are a multiple of the hyperparameter that ``linear`` names, and the state is free of it."""
    strategy = make().double()
    rule = text_of(strategy)
    if rule is None or rule.linear is None:
        return
    if rule.linear not in dict(rule.named_parameters()):
        raise Broken(f"linear names '{rule.linear}', which is no hyperparameter that is on: name one, or None.")
    (once, state), (twice, other) = _answers(rule, 1.0), _answers(rule, 2.0)
    if not probe.close(state, other, EXACT):
        raise Broken(f"its state depends on '{rule.linear}', which linear says it does not: set linear = None.")
    if not probe.close([2 * d for d in once], twice, EXACT):
        raise Broken(f"its updates are no multiple of '{rule.linear}', which linear says they are: set linear = None.")


def _answers(rule: Rule, factor: float) -> tuple[Params, State]:
    """Updates and the last state over a few steps from fixed points, ``rule.linear`` being ``factor`` times itself."""
    assert rule.linear is not None
    p, domain = dict(rule.named_parameters())[rule.linear], rule._domains[rule.linear]
    kept, found = p.detach().clone(), list[Tensor]()
    with torch.no_grad():
        p.fill_(domain.coordinate(factor * float(domain.natural(kept))))
        point = probe.some(PLAIN, 1)
        state: Any = rule.init(point)
        for step in range(STEPS):
            delta, state = rule(point, [probe.scored(1, point, step)], state, probe.generator())
            found += delta
        p.copy_(kept)
    return found, trees.tree_map(torch.clone, state)


def _row(tensors: Params) -> list[float]:
    return [x for t in tensors for x in t.flatten().tolist()]


def _column(row: list[float]) -> Tensor:
    return torch.tensor(row, dtype=torch.float64)
