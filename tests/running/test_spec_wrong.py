"""Specs with something wrong in every place: refused in one sentence that names it, or good for something."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recopt.checking.errors import RecoptError
from recopt.comparison import EACH, make_compare_spec, plan_series
from recopt.comparison.contest import prepare
from recopt.running.plan import plan, replan
from recopt.running.relocated import relocated

SHORT: dict[str, Any] = {
    "task": {"name": "quadratic", "settings": {"dim": 2}}, "stack": "sgd(lr=0.01)/adam", "depth": 2,
    "settings": ["level2.every=2"], "steps": 3, "seed": 0, "tasks": 1, "device": "cpu", "dtype": "float32",
    "measure": 1, "choose": {"every": 2, "tasks": 2, "steps": 2, "objective": "sum", "patience": 3}, "plugins": [],
}  # fmt: skip
WHOLE = plan("quadratic(dim=2)", "sgd(lr=0.01)[*]/adam", settings=["level2.every=2"]).spec.model_dump(mode="json")
COMPARED: dict[str, Any] = {
    "task": "quadratic(dim=2)", "stacks": [{"stack": "sgd", "name": "x", "settings": ["sgd.lr=0.1"], "trained": 3},
    {"run": {key: SHORT[key] for key in ("task", "stack", "steps")}, "repeat": 2}], "baselines": ["sgd[lr]"],
    "steps": 2, "seeds": 2, "seed": 0, "tune": 1, "tune_tasks": 1, "measure": "sum", "reference": "x",
    "guards": False, "device": "cpu", "dtype": "float32", "plugins": [], EACH: [{"name": "a"}],
}  # fmt: skip
WRONG = (None, True, -1, 1.5, 10**30, math.nan, "", "x", "/", "a(b", [], [None], {}, {"a": 1}, {1: 2},
         datetime.date(2020, 1, 1))  # fmt: skip


def run(data: dict[str, Any]) -> None:
    replan(relocated(data, Path()), where="s.yaml")


def compare(data: dict[str, Any]) -> None:
    if EACH in data:
        for row in plan_series(data, "s.yaml"):
            prepare(row.spec)
    else:
        prepare(make_compare_spec(data, "s.yaml"))


def places(node: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a spec."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def refusal(
    read: Callable[[dict[str, Any]], None], spec: dict[str, Any], place: tuple[Any, ...], wrong: object
) -> str | None:
    """What is said to ``spec`` with ``wrong`` in that place; None if nothing."""
    node = changed = copy.deepcopy(spec)
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = wrong
    try:
        read(changed)
    except RecoptError as why:
        return str(why)
    return None


CASES = [
    pytest.param(read, spec, place, id=f"{name}-{'.'.join(map(str, place))}")
    for name, read, spec in (("short", run, SHORT), ("whole", run, WHOLE), ("compare", compare, COMPARED))
    for place in places(spec)
    if spec is not WHOLE or place[0] in ("strategies", "levels")  # the rest is as in the short one
]


@pytest.mark.parametrize(("read", "spec", "place"), CASES)
def test_a_wrong_value_is_refused_in_a_sentence(
    here: Path, read: Callable[[dict[str, Any]], None], spec: dict[str, Any], place: tuple[Any, ...]
) -> None:
    said = [text for text in (refusal(read, spec, place, wrong) for wrong in WRONG) if text]
    assert len(said) >= len(WRONG) // 3
    for text in said:
        assert "\n" not in text and text.endswith((".", "?")) and len(text) < 700, text
    assert not any(here.iterdir())
