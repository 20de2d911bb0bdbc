"""Checks of a saved state against the tower that is to go on from it: damaged content is refused before it is used."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Sequence
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..contracts.strategy import Params
from ..core.tower import Tower
from ..levels.level import TASK
from ..levels.state import LevelState, Numbers, Part, RunState, SlotState
from ..rules.columns import ColumnMover
from ..rules.rule import text_of
from ..rules.tensors import TensorMover

_HINTS: Any = cache(get_type_hints)
_LIKE_POINTS = ("raw", "grads", "begun", "point", "cut")
"""Entries of a part that hold one tensor for each tensor of the part."""


class Misfit(Exception):
    """A place of a saved state that does not fit."""


def check(state: Any, tower: Tower, own: RunState, points: Params) -> None:
    """Raise Misfit unless ``state`` can take the place of ``own`` over the task's ``points``."""
    _require(isinstance(state, RunState), "it is no state")
    place = _misfit(state, RunState, "state")
    _require(place is None, str(place))
    _require(list(state.slots) == list(own.slots), "slots")
    _require(len(state.levels) == len(state.pending) == len(own.levels), "levels")
    for name, slot in state.slots.items():
        if name != TASK:
            _check_slot(name, slot, own.slots[name])
    if state.guard is not None:
        memory = state.guard
        lists = (memory.shrink, memory.reference, memory.seen, memory.bad_run, memory.strikes, memory.exploded)
        _require(all(len(x) == tower.setting.tasks for x in lists), "guard")
        _require(set(memory.checks) <= set(range(len(own.levels))), "guard.checks")
    for number, level in enumerate(state.levels):
        _check_level(level, tower, own, number, _moved(tower, own, number, points))


def check_windows(state: RunState, tower: Tower, own: RunState, points: Params) -> None:
    """Raise Misfit unless the windows of ``state``, their tapes made anew, can be gone on with."""
    for number, level in enumerate(tower.graph.levels):
        taped = level.taping and not tower.carriers.closed[number]
        for m, records in zip(tower.graph.subjects[number], state.levels[number].window.records, strict=True):
            shapes = [tuple(p.shape) if p is not None else () for p in _moved(tower, own, m, points)]
            for record in records:
                _require(record.loss is None or _single(record.loss), f"levels[{number}].window")
                told = shapes[: len(record.point)]  # others joined since
                _require(not taped or (bool(told) and _shapes(record.point) == told), f"levels[{number}].window")
                _require(all(t.shape == c.shape for t, c in record.pairs), f"levels[{number}].window")
        starts = [start.loss for start in state.levels[number].window.start if start is not None]
        _require(all(loss is None or _single(loss) for loss in starts), f"levels[{number}].window")


def _single(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.ndim


def _moved(tower: Tower, own: RunState, number: int, points: Params) -> list[Tensor | None]:
    """The tensors that a level moves; None for numbers."""
    name, moved = tower.graph.levels[number].moves, tower.slots.index(own, number)
    slot = own.slots[name]
    if name == TASK:
        return [points[i] for i in moved]
    return [slot.params[i] if isinstance(slot, SlotState) else None for i in moved]


def _require(good: bool, place: str) -> None:
    if not good:
        raise Misfit(place)


def _check_slot(name: str, slot: Numbers | SlotState, own: Numbers | SlotState) -> None:
    where = f"slots.{name}"
    _require(type(slot) is type(own), where)
    if isinstance(slot, Numbers) and isinstance(own, Numbers):
        _require(list(slot.value) == list(own.value), f"{where}.value")
        sizes = {len(slot.coords), len(slot.leaves), len(slot.slopes), len(own.coords)}
        _require(len(sizes) == 1 and all(map(math.isfinite, slot.coords)), f"{where}.coords")
        _require(all(x is None or not x.ndim for x in slot.leaves), f"{where}.leaves")
    else:
        _require(_shapes(slot.params) == _shapes(own.params), f"{where}.params")


def _check_level(level: LevelState, tower: Tower, own: RunState, number: int, points: Sequence[Tensor | None]) -> None:
    where, subjects = f"levels[{number}]", len(tower.graph.subjects[number])
    _require(len(level.window.records) == len(level.window.start) == subjects, f"{where}.window")
    _require(level.rng.shape == own.levels[number].rng.shape and level.rng.dtype == torch.uint8, f"{where}.rng")
    indices = [i for part in level.parts for i in part.indices]
    _require(len(set(indices)) == len(indices) and set(indices) <= set(range(len(points))), f"{where}.parts")
    if tower.graph.levels[number].moves != TASK:
        _require([part.indices for part in level.parts] == [list(range(len(points)))], f"{where}.parts")
    for part in level.parts:
        _check_part(part, tower, number, points)


def _check_part(part: Part, tower: Tower, number: int, points: Sequence[Tensor | None]) -> None:
    where, mine = f"levels[{number}].parts", [points[i] for i in part.indices]
    there = [p for p in mine if p is not None]
    for key in _LIKE_POINTS:
        _require(key not in part.kept or _shapes(part.kept[key]) == _shapes(there), f"{where}.kept.{key}")
    _require(_shapes(part.mean) == (_shapes(there) if part.folds else []), f"{where}.mean")
    _check_normal(part, f"{where}.normal")
    _require(set(part.idle) <= set(range(len(mine))), f"{where}.idle")
    mover = tower.carriers.movers[number]
    if isinstance(mover, TensorMover):
        first = mover.begin([torch.zeros((), dtype=torch.float64) if p is None else p for p in mine])
        if text_of(mover.strategy) is not None:
            _require(_layout(part.strategy, plain=True) == _layout(first, plain=True), f"{where}.strategy")
        else:
            _require(_goes_on(part.strategy, first), f"{where}.strategy")
        return
    first = _layout(mover.begin(there) if isinstance(mover, ColumnMover) else mover.begin([0.0] * len(mine)))
    _require(_layout(part.strategy) == first, f"{where}.strategy")
    _require(not part.recorded or mover.needs() <= set(part.kept), f"{where}.kept")
    _require("before" not in part.kept or _layout(part.kept["before"]) == first, f"{where}.kept.before")
    rows = [part.kept.get("way", []), *part.kept.get("tangents", [])]
    _require(all(not row or _layout(row) == [float] * len(mine) for row in rows), f"{where}.kept.way")


def _check_normal(part: Part, where: str) -> None:
    """Check the state of a running transform: counts and weights, and a number for each tensor."""
    for key, value in part.normal.items():
        several = value if key == "square" else [value]
        single = isinstance(several, list) and all(_layout(x) is float or _single(x) for x in several)
        count = len(part.indices) if key == "square" else 1
        _require(key not in ("steps", "weight", "square") or (single and len(several) == count), where)


def _shapes(values: Any) -> Any:
    """Of tensors; None for what is no list of them."""
    good = isinstance(values, list) and all(isinstance(v, Tensor) for v in values)
    return [tuple(v.shape) for v in values] if good else None


def _goes_on(state: Any, first: Any) -> bool:
    """True if ``state`` may come from ``first``: it may have more, and other lengths where there was nothing yet."""
    if isinstance(first, Tensor):
        return isinstance(state, Tensor) and (not first.numel() or state.shape == first.shape)
    if isinstance(first, dict):
        return isinstance(state, dict) and all(key in state and _goes_on(state[key], x) for key, x in first.items())
    if isinstance(first, list | tuple):
        there = isinstance(state, list | tuple) and len(state) >= len(first)
        return there and all(_goes_on(a, b) for a, b in zip(state, first, strict=False))
    return True


def _layout(value: Any, plain: bool = False) -> Any:
    """Keys, lengths and shapes of a strategy's state, without its numbers; ``plain``: without types as well."""
    if isinstance(value, Tensor):
        return tuple(value.shape) if plain else (tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return {key: _layout(item, plain) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_layout(item, plain) for item in value]
    return float if isinstance(value, int | float) else type(value)


def _misfit(value: Any, hint: Any, place: str) -> str | None:
    """The first place in ``value`` that is not of the declared type; None if all are."""
    origin, of = get_origin(hint), get_args(hint)
    if hint is Any:
        return None
    if origin in (Union, types.UnionType):
        either = [_misfit(value, one, place) for one in of]
        return None if None in either else either[0]
    if hint is None:
        return None if value is None else place
    wanted: Any = (int, float) if hint is float else origin or hint
    if not isinstance(value, wanted):
        return place
    if dataclasses.is_dataclass(value):
        fields = _HINTS(type(value)).items()
        places = (_misfit(getattr(value, name), of_field, f"{place}.{name}") for name, of_field in fields)
        return next(filter(None, places), None)
    return next((found for item, one in _within(value, origin, of) if (found := _misfit(item, one, place))), None)


def _within(value: Any, origin: Any, of: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """The items of a container, each with the type that is declared for it."""
    if origin is tuple:
        return list(zip(value, of, strict=True)) if len(value) == len(of) else [(value, None)]
    if origin is list:
        return [(item, of[0]) for item in value]
    if origin is dict:
        return [pair for key, item in value.items() for pair in ((key, of[0]), (item, of[1]))]
    return []
