"""Ranges and choices as a user writes them, and the settings that are proposed from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from recopt.checking.errors import RecoptError
from recopt.search.proposals import LENGTH, Search, Settings, Space, drawn, grid, searched
from recopt.search.ranges import RANGES, Range, axis
from recopt.stacks.build import make_strategy
from recopt.stacks.named import Named


@pytest.mark.parametrize(
    ("text", "range", "low", "middle", "high"),
    [
        ("1e-4..1", Range(1e-4, 1.0), 1e-4, 1e-2, 1.0),
        ("1..100", Range(1, 100, whole=True), 1, 10, 100),
        ("-2..2", Range(-2, 2, "linear", True), -2, 0, 2),
        ("0.0 .. 0.5", Range(0, 0.5, "linear"), 0, 0.25, 0.5),
        ("0.9..0.999", Range(1 - 0.999, 1 - 0.9, "gap"), 0.9, 0.99, 0.999),
        ("0.9..0.999 linear", Range(0.9, 0.999, "linear"), 0.9, 0.9495, 0.999),
        ("8..128 linear", Range(8, 128, "linear", True), 8, 68, 128),
    ],
)
def test_a_range_is_even_on_its_scale(text: str, range: Range, low: float, middle: float, high: float) -> None:
    made = axis("x", text)
    assert made.range is not None and made.range.scale == range.scale and made.range.whole is range.whole
    ends = sorted([made.value(0.0), made.value(1.0)])
    assert [ends[0], made.value(0.5), ends[1]] == pytest.approx([low, middle, high])
    assert all(isinstance(value, int) for value in ends) is range.whole
    for unit in (0.0, 0.3, 1.0):
        assert range.unit(range._replace(whole=False).value(unit)) == pytest.approx(unit, abs=1e-9)


def test_a_number_of_values_makes_choices_of_a_range() -> None:
    assert axis("x", "1e-4..1 in 5").choices == (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    assert axis("x", "1..4 in 9").choices == (1, 2, 3, 4)  # whole numbers, each once
    assert axis("x", "0.9..0.999 gap in 3").choices == pytest.approx((0.999, 0.99, 0.9))
    assert axis("adam.lr", None).range == RANGES["lr"]
    assert axis("stack", ["adam", "sgd"]).ends == ("adam", "sgd")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("1e-4", "should be a range like 1e-4..1, or a list"),
        ("a..b", "should be a range"),
        ("1..1", "the lower first"),
        ("10..1", "the lower first"),
        ("0..inf", "its ends should be numbers"),
        ("0..1 log", "its ends should be above 0"),
        ("0.5..2 gap", "its ends should be below 1"),
        ("1..2 lag", "Unknown scale 'lag' of 'x'. Did you mean 'log'?"),
        ("1..2 in 1", "two values at least"),
        ([], "no values"),
        ([1, 2, 1], "the value 1 twice"),
        (3, "should be a range"),
        (None, "no usual range"),
    ],
)
def test_values_of_another_form_are_refused(values: Any, words: str) -> None:
    with pytest.raises(RecoptError, match=words):
        axis("x", values)


def losses(search: Search, of: Any) -> list[list[Settings]]:
    """All batches of a search."""
    found = [next(search)]
    while True:
        try:
            found.append(search.send([of(one) for one in found[-1]]))
        except StopIteration:
            return found


def test_a_grid_has_every_combination_once() -> None:
    space = Space([axis("a", [1, 2]), axis("b", ["x", "y"])])
    assert losses(grid(space), len) == [
        [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    ]
    without = Space(space.axes, lambda one: one if one["b"] == "x" else {"b": "y"})
    assert losses(grid(without), len) == [[{"a": 1, "b": "x"}, {"b": "y"}, {"a": 2, "b": "x"}]]


def test_draws_are_even_in_the_logarithm_and_differ() -> None:
    [found] = losses(drawn(Space([axis("lr", "1e-4..1"), axis("n", [1, 2, 3])]), 3000, 0), len)
    decades = np.histogram([math.log10(one["lr"]) for one in found], bins=4, range=(-4, 0))[0]
    assert len(found) == 3000 and abs(decades - 750).max() < 100
    assert abs(np.bincount([one["n"] for one in found])[1:] - 1000).max() < 100
    assert losses(drawn(Space([axis("lr", "1e-4..1")]), 3, 0), len) != losses(
        drawn(Space([axis("lr", "1e-4..1")]), 3, 1), len
    )
    [few] = losses(drawn(Space([axis("n", [1, 2, 3])]), 50, 0), len)
    assert sorted(one["n"] for one in few) == [1, 2, 3]


def test_a_strategy_moves_coordinates_and_never_leaves_the_range() -> None:
    space = Space([axis("lr", "1e-4..1"), axis("n", "1..64"), axis("kind", ["a", "b", "c"])])

    def bowl(one: Settings) -> float:
        return math.log(one["lr"] / 0.3) ** 2 + math.log(one["n"] / 4) ** 2 + 3 * (one["kind"] != "b")

    strategy = make_strategy("by", Named(name="annealing", settings={"step": 3.0}), 0)
    batches = losses(searched(strategy, space, 60, 0), bowl)
    assert batches[0][0] == {"lr": 0.01, "n": 8, "kind": "b"}  # begins in the middle
    tried = [one for batch in batches for one in batch]
    different = [one for n, one in enumerate(tried) if one not in tried[:n]]
    assert 55 <= len(different) <= 60
    assert all(1e-4 <= one["lr"] <= 1 and 1 <= one["n"] <= 64 for one in tried)
    assert min(map(bowl, tried)) < 0.3 * bowl(batches[0][0])
    assert tried == [one for batch in losses(searched(strategy, space, 60, 0), bowl) for one in batch]


@pytest.mark.parametrize("name", ["quasi-random", "random-search", "optuna"])
def test_a_strategy_that_searches_a_box_covers_every_axis_to_its_ends(name: str) -> None:
    texts = {"lr": "1e-6..10", "x": "-3.0..5", "gap": "0.5..0.99999", "list": [*range(16)]}
    space = Space([axis(key, values) for key, values in texts.items()])
    batches = losses(searched(make_strategy("by", Named(name=name), 0), space, 100, 0), lambda one: one["x"] ** 2)
    for one in space.axes:
        values = [settings[one.name] for batch in batches for settings in batch]
        units = [one.range.unit(value) if one.range else value / 15 for value in values]
        assert min(units) < 0.15 and max(units) > 0.85, one.name
        assert (np.histogram(units, bins=4, range=(0, 1))[0] > 0).all(), one.name


def test_a_unit_is_the_same_share_of_every_range() -> None:
    space = Space([axis("wide", "1e-9..1"), axis("narrow", "0.1..0.2"), axis("linear", "-1..9.5")])
    strategy = make_strategy("by", Named(name="quasi-random"), 0)
    point = [[torch.zeros((), dtype=torch.float64)] * 3, [torch.ones((), dtype=torch.float64)] * 3]
    strategy.propose = lambda *_: point  # type: ignore[method-assign]
    [middle, other] = next(searched(strategy, space, 2, 0))
    for one in space.axes:
        assert one.range is not None
        assert one.range.unit(middle[one.name]) == pytest.approx(0.5, abs=1e-5)
        assert one.range.unit(other[one.name]) == pytest.approx(0.5 + 1 / LENGTH, abs=1e-5)


def test_a_strategy_that_finds_nothing_new_ends() -> None:
    strategy = make_strategy("by", Named(name="annealing"), 0)
    batches = losses(searched(strategy, Space([axis("n", [1, 2])]), 10, 0), lambda one: float(one["n"]))
    assert {one["n"] for batch in batches for one in batch} == {1, 2}
