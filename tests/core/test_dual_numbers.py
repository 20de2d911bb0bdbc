"""Dual numbers: every operator, and every word of the vocabulary, against central differences."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest

from recopt.rules.dual import Dual, plain, slope
from recopt.rules.ops import NUMBERS

WIDTH = 1e-3
X = 0.7
"""The variable."""

OPERATORS: dict[str, Callable[[Any], Any]] = {
    "dual + dual": lambda x: x * 2 + x, "dual + float": lambda x: x + 1.5, "float + dual": lambda x: 1.5 + x,
    "dual - dual": lambda x: x * x - x, "dual - float": lambda x: x - 1.5, "float - dual": lambda x: 1.5 - x,
    "dual * dual": lambda x: x * (x + 2), "dual * float": lambda x: x * 1.5, "float * dual": lambda x: 1.5 * x,
    "dual / dual": lambda x: (x + 2) / (x * x), "dual / float": lambda x: x / 1.5, "float / dual": lambda x: 1.5 / x,
    "dual ** dual": lambda x: (x + 1) ** (2 * x), "dual ** float": lambda x: x**2.5, "dual ** int": lambda x: x**3,
    "float ** dual": lambda x: 0.9**x, "- dual": operator.neg, "dual ** negative": lambda x: x**-2,
    "sum": lambda x: sum([x, 2.0, x * x]),
}  # fmt: skip

WORDS: dict[str, Callable[[Any], Any]] = {
    "lerp": lambda x: NUMBERS.lerp(x, 2.0, 1 - x), "lerp back": lambda x: NUMBERS.lerp(1.0, x * x, 0.3),
    "lerp_square": lambda x: NUMBERS.lerp_square(x, 3.0 * x, x),
    "add_square": lambda x: NUMBERS.add_square(x, x),
    "decay_add": lambda x: NUMBERS.decay_add(2.0, x, x),
    "decay_add over": lambda x: NUMBERS.decay_add(2.0, x, x, over=x + 1),
    "roots": lambda x: NUMBERS.roots(x, x), "add": lambda x: NUMBERS.add(x, 2 * x, x),
    "add a scalar": lambda x: NUMBERS.add(1.0, x, 3.0), "mul": lambda x: NUMBERS.mul(x, x),
    "mul by a scalar": lambda x: NUMBERS.mul(2.0, x), "div": lambda x: NUMBERS.div(1.0, x),
    "div by a scalar": lambda x: NUMBERS.div(x, x + 1), "power": lambda x: NUMBERS.power(1 + x, x),
    "maximum": lambda x: NUMBERS.maximum(x, x * x), "other maximum": lambda x: NUMBERS.maximum(x * x, x),
    "magnitude": lambda x: NUMBERS.magnitude(-x * x), "latest": lambda x: NUMBERS.latest(x, x * 0.5),
    "latest of none": lambda x: NUMBERS.latest(x * x, 0.0), "sqrt": lambda x: NUMBERS.sqrt(1 - x**2),
    "sign": lambda x: NUMBERS.sign(-x), "turns": lambda x: NUMBERS.turns(x, -x, x),
}  # fmt: skip


def check(f: Callable[[Any], Any]) -> None:
    found = f(Dual(X, 1.0))
    at = [plain(f(X + n * WIDTH)) for n in (-2, -1, 1, 2)]
    difference = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * WIDTH)
    assert plain(found) == pytest.approx(f(X), rel=1e-15)
    assert slope(found) == pytest.approx(difference, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    check(OPERATORS[name])


@pytest.mark.parametrize("name", WORDS)
def test_words_of_the_vocabulary(name: str) -> None:
    check(WORDS[name])


def test_what_cancels_exactly_has_no_slope() -> None:
    x = Dual(0.3, 1.0)
    assert slope((x * 0.7) / x) == 0.0


def test_the_root_of_zero_has_none() -> None:
    found = NUMBERS.roots(Dual(0.0, 1.0), 0.5)
    assert (plain(found), slope(found)) == (0.5, 0.0)
    assert slope(NUMBERS.sqrt(Dual(0.0, 1.0))) == 0.0
    assert math.isfinite(1 / plain(NUMBERS.roots(0.0)))


def test_a_float_has_no_slope() -> None:
    assert (plain(1.5), slope(1.5)) == (1.5, 0.0)
