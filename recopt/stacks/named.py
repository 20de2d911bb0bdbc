"""Plugins by name with their settings, in a spec, a stack or an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ..checking.errors import RecoptError, shown
from ..levels.level import MOST_LEVELS
from ..levels.notation import Term, parse

_LONG = 40
"""Characters of a setting beyond which it is taken for a path, of which the last part is shown."""


def named_of(value: object) -> object:
    """``adam(lr=0.1)`` or ``{name: adam, lr: 0.1}`` as name and settings."""
    if isinstance(value, str):
        if value.endswith(".py"):
            return {"name": value}
        layers = parse(value)
        term = layers[0][0]
        if len(layers) > 1 or len(layers[0]) > 1 or term.only or term.moves:
            raise RecoptError(f"'{shown(value)}' in a spec should name one plugin, like adam(lr=0.1).")
        return {"name": term.name, "settings": term.settings}
    return value


class Named(BaseModel):
    """A plugin by name (or a task by its file), with its settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    settings: dict[str, Any] = {}
    domains: dict[str, str] = {}


NamedOrText = Annotated[Named, BeforeValidator(named_of)]


def written(slot: str, named: Named) -> str:
    """One strategy in stack notation, with its label where that is not its name."""
    label = "" if slot == named.name.replace("-", "_") else f"@{slot}"
    settings = ", ".join(f"{k}={_short(v)}" for k, v in named.settings.items())
    return f"{named.name}{label}({settings})" if settings else f"{named.name}{label}"


def _short(value: object) -> str:
    if isinstance(value, str) and len(value) > _LONG:
        value = f"…/{value.rpartition('/')[2]}"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def strategies_of(layers: Sequence[Sequence[Term]]) -> dict[str, Named]:
    """The strategies of a stack by slot, with the settings of the first term that has the label."""
    found: dict[str, Named] = {}
    for term in (t for layer in layers for t in layer):
        found.setdefault(term.slot, Named(name=term.name, settings=term.settings))
    return found


def deepen(layers: Sequence[Sequence[Term]], depth: int | None) -> list[list[Term]]:
    """The layers with the last one repeated up to ``depth`` layers, each time with strategies of its own.

    Settings and patterns of a first level are for the model: levels above it repeat the rule's name alone.
    """
    out = [list(layer) for layer in layers]
    if depth is not None and depth < len(out):
        raise RecoptError(
            f"--depth {depth} is less than the {len(out)} levels of the stack: leave it out or give more."
        )
    if depth is not None and depth > MOST_LEVELS:
        raise RecoptError(f"--depth {shown(depth)} is more than {MOST_LEVELS:,} levels: give less.")
    if depth is not None and len(out) < depth and any(term.moves == term.slot for term in out[-1]):
        raise RecoptError("'self' closes a stack, and a depth repeats its last strategy: leave one of them out.")
    last = out[-1]
    apart = len(last) == 1 or (len(out) > 1 and all(term.only for term in last))
    if depth is not None and len(out) < depth and not apart:
        beside = "+".join(term.slot for term in last)
        raise RecoptError(
            f"A depth repeats the last strategy of a stack, and of '{shown(beside)}' each would move the same numbers: "
            f"write what is to stand above, as in {shown(beside)}/hypergradient."
        )
    taken = {term.slot for layer in out for term in layer}
    while depth is not None and len(out) < depth:
        layer = []
        for term in layers[-1]:
            slot = f"{term.name.replace('-', '_')}{len(out) + 1}"
            while slot in taken:
                slot += "_"
            taken.add(slot)
            layer.append(Term(term.name, slot, *((term.settings, term.only) if len(layers) > 1 else ())))
        out.append(layer)
    return out


def in_words(named: Named) -> str:
    """A task or a strategy with its settings, as a user would write it."""
    return written(named.name.replace("-", "_"), named)
