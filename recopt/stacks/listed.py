"""Stacks that are given as Python objects: a strategy, or a list of names and strategies, innermost first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checking.errors import RecoptError
from ..contracts.strategy import Strategy
from ..levels.graph import Graph
from ..levels.notation import Term, parse, split
from .build import make_level, make_strategies, stack_levels, with_settings
from .named import deepen, strategies_of, written
from .places import Places

Listed = Strategy | Sequence[str | Strategy]


def in_notation(stack: Any) -> Any:
    """``stack``, one text where it is a list of nothing but names."""
    names = isinstance(stack, list | tuple) and stack and all(isinstance(item, str) for item in stack)
    return "/".join(stack) if names else stack


def layers_listed(stack: Any) -> tuple[list[list[Term]], dict[str, Strategy]]:
    """The layers of a :data:`Listed` stack, and the strategies that it brings, by slot: called by their classes.

    Raises:
        RecoptError: for what is neither a name nor a strategy, and for an empty list.
    """
    if isinstance(stack, type) or not isinstance(stack, Strategy | Sequence):
        hint = f"{stack.__name__}()" if isinstance(stack, type) and issubclass(stack, Strategy) else "'adam/sgd'"
        raise RecoptError(f"A stack is its notation, a strategy or a list of them, not {stack!r}: write {hint}.")
    items = [stack] if isinstance(stack, Strategy) else list(stack)
    for item in items:
        if not isinstance(item, str | Strategy):
            hint = f"{item.__name__}()" if isinstance(item, type) and issubclass(item, Strategy) else "'adam/sgd'"
            raise RecoptError(f"A stack holds names or strategies, not {item!r}: write {hint}.")
    if not items:
        raise RecoptError("The stack is empty: give at least one strategy, e.g. 'adam'.")
    layers = parse("/".join(type(item).__name__.lower() if isinstance(item, Strategy) else item for item in items))
    own, at = dict[str, Strategy](), 0
    for item in items:
        if isinstance(item, Strategy):
            settings = {key: value for key, value in item._made_with.items() if key != "domains"}
            layers[at] = [replace(layers[at][0], settings=settings)]
            own[layers[at][0].slot] = item
        at += 1 if isinstance(item, Strategy) else len(split(item, "/"))
    return layers, own


def deepened(
    layers: list[list[Term]], own: Mapping[str, Strategy], depth: int | None
) -> tuple[list[list[Term]], dict[str, Strategy]]:
    """The layers with the last one repeated up to ``depth``, and the strategies that they bring."""
    made = deepen(layers, depth)
    new = [pair for layer in made[len(layers) :] for pair in zip(layer, layers[-1], strict=True)]
    return made, {**own, **{term.slot: own[old.slot] for term, old in new if old.slot in own}}


def graph_listed(
    stack: Listed, depth: int | None = None, seed: int = 0, folders: Places = (), settings: Sequence[str] = ()
) -> Graph:
    """The graph of a stack.

    Args:
        seed: draws the initial weights of strategies that are given by name.
        settings: of levels, and of those strategies: ``level2.every=20``, ``adam.lr=0.1``.

    Raises:
        RecoptError: for anything unknown or impossible.
    """
    layers, own = deepened(*layers_listed(stack), depth)
    named = strategies_of(layers)
    leveled = [text for text in settings if re.match(r"level\d", text)]
    given: dict[str, Any] = {"levels": [], "task": {}, "strategies": {slot: {} for slot in named}}
    _check_settings(with_settings(given, [text for text in settings if text not in leveled]), own)
    named = {
        slot: one.model_copy(update={"settings": {**one.settings, **given["strategies"][slot].get("settings", {})}})
        for slot, one in named.items()
    }
    made = make_strategies({slot: one for slot, one in named.items() if slot not in own}, seed, folders, "in the stack")
    slots = {slot: own[slot] if slot in own else made[slot] for slot in named}
    words = [level.model_dump(exclude_unset=True) for level in stack_levels(layers, slots)]
    with_settings({"levels": words, "task": {}, "strategies": {}}, leveled)
    levels = [make_level(one, number) for number, one in enumerate(words, 1)]
    return Graph(levels, slots, labels={slot: written(slot, one) for slot, one in named.items()})


def _check_settings(data: Mapping[str, Any], own: Mapping[str, Strategy]) -> None:
    """Refuse settings of what is an object already."""
    if data["task"]:
        key = next(iter(data["task"]["settings"]))
        raise RecoptError(f"'task.{key}' has no place beside a list of strategies: write it into the task.")
    for slot, strategy in own.items():
        for key in data["strategies"][slot].get("settings", {}):
            given = f"make it so, as {type(strategy).__name__}({key}=…)"
            raise RecoptError(f"'{slot}.{key}' is of a strategy that was given as an object: {given}.")
