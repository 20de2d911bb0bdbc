"""Arguments of public functions: those of a wrong kind are refused by name, before anything is done with them."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import RecoptError, did_you_mean

P = ParamSpec("P")
T = TypeVar("T")
_WORDS = {
    bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None",
    Sequence: "a list", Iterable: "a list", Mapping: "a mapping", Callable: "a function",
}  # fmt: skip


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with its arguments checked against its annotations.

    Raises:
        RecoptError: from calls with an unknown, missing or too many arguments, or one of another kind.
    """
    name = function.__qualname__.removesuffix(".__init__")
    signature, hints = inspect.signature(function), dict[str, Any]()

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> T:
        if not hints:
            hints.update(get_type_hints(function))
        known = [key for key, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD and key != "self"]
        strange = [key for key in kwargs if key not in known]
        if strange and len(known) + ("self" in signature.parameters) == len(signature.parameters):
            raise RecoptError(f"recopt.{name} has no argument '{strange[0]}'.{did_you_mean(strange[0], known)}")
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as why:
            raise RecoptError(f"recopt.{name}: {why}; it takes {', '.join(known)}.") from None
        for key in known:
            if key in given and key in hints and not fits(given[key], hints[key]):
                text = repr(given[key])
                text = text if len(text) <= 60 else f"{text[:60]}…"
                made = f": write {given[key].__name__}()" if isinstance(given[key], type) else ""
                raise RecoptError(f"recopt.{name}: {key}={text} should be {in_words(hints[key])}{made}.")
        return function(*args, **kwargs)

    return cast("Callable[P, T]", checking)


def fits(value: object, hint: Any) -> bool:
    """True if ``value`` is of the annotated kind: numbers of numpy count as numbers, True and False do not."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return listed and all(fits(one, parts[0]) for one in cast("Sequence[Any]", value))
    return isinstance(value, hint if origin is None else origin)


def in_words(hint: Any) -> str:
    """The kinds that ``hint`` allows, as the end of a sentence."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(in_words(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is not None and issubclass(origin, Sequence):
        return f"a list of {_several(parts[0])}"
    kind = origin or hint
    return _WORDS.get(kind) or ("a path" if kind.__name__ == "Path" else f"a recopt.{kind.__name__}")


def _several(hint: Any) -> str:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = [in_words(part).removeprefix("a ").replace("list of", "lists of") for part in parts]
    return " or ".join(
        f"{word} objects" if word.startswith("recopt.") else word if word.startswith("lists of") else f"{word}s"
        for word in words
    )
