"""States as plain containers: dicts, lists, tensors and numbers, which can be saved without pickling anything."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..levels import state as known

KIND = "$kind"
_KINDS = {c.__name__: c for c in vars(known).values() if isinstance(c, type) and c.__module__ == known.__name__
          and dataclasses.is_dataclass(c)}  # fmt: skip


def to_plain(tree: Any) -> Any:
    """``tree`` with each dataclass of :mod:`recopt.levels.state` as a dict that says its kind; tensors are shared."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {f.name: to_plain(getattr(tree, f.name)) for f in dataclasses.fields(tree)}
        return {KIND: type(tree).__name__, **fields}
    if isinstance(tree, dict):
        return {key: to_plain(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(to_plain(value) for value in tree)
    if isinstance(tree, list):
        return [to_plain(value) for value in tree]
    return tree


def from_plain(node: Any) -> Any:
    """The inverse of :func:`to_plain`.

    Raises:
        KeyError, TypeError: if it is not of the form that it gives.
    """
    if isinstance(node, dict):
        fields = {key: from_plain(value) for key, value in node.items() if key != KIND}
        return _KINDS[node[KIND]](**fields) if KIND in node else fields
    if isinstance(node, tuple):
        return tuple(from_plain(value) for value in node)
    if isinstance(node, list):
        return [from_plain(value) for value in node]
    return node


def misfit(node: Any, place: str = "state") -> str | None:
    """The first place in a dataclass of a state whose value is not of the declared type; None if all are."""
    for name, hint in get_type_hints(type(node)).items():
        found = _misfit(getattr(node, name), hint, f"{place}.{name}")
        if found is not None:
            return found
    return None


def _misfit(value: Any, hint: Any, place: str) -> str | None:
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
        return misfit(value, place)
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
