"""Explanations of what is wrong with values from outside, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from .errors import RecoptError, did_you_mean, quoted, shown


def explain(why: ValidationError, known: Mapping[str, Iterable[str]]) -> str:
    """The first mistake of a validation in one sentence: its place, its cause, and the nearest known name.

    An unknown name comes before a missing one, which it may be a misspelling of. ``known`` has the known names: at the
    top (``""``), and for each field that has others nested in it.
    """
    errors = why.errors(include_url=False)
    error = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    parts = [str(p) for p in error["loc"] if not str(p).startswith("function-")]
    place = shown(".".join(parts))
    if len(parts) > 1 and parts[0] == "levels" and parts[1].isdigit():
        place = shown(".".join([f"level{int(parts[1]) + 1}", *parts[2:]]))
    if error["type"] == "extra_forbidden":
        return f"there is no '{place}'.{did_you_mean(parts[-1], known.get(parts[0] if len(parts) > 1 else '', ()))}"
    if error["type"] == "missing":
        if {("strategies",), ("levels",)} <= {e["loc"] for e in errors}:
            return "'stack' is missing: name what trains the task, as in stack: adam/hypergradient."
        return f"'{place}' is missing."
    if isinstance(cause := error.get("ctx", {}).get("error"), RecoptError):  # in a sentence of its own
        return str(cause)
    text = _EXPECTED.get(error["type"].partition("_")[0], error["msg"].removeprefix("Value error, "))
    return f"'{place}' {text[0].lower()}{text[1:]}, not {quoted(error['input'])}." if place else f"{text}."


_EXPECTED = {
    "int": "should be a whole number", "float": "should be a number", "bool": "should be true or false",
    "string": "should be text", "list": "should be a list", "dict": "should be a mapping",
    "model": "should be a mapping",
}  # fmt: skip
"""The value that was expected, by the beginning of pydantic's type of the error."""
