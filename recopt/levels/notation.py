"""The notation for stacks, innermost first: ``adam(lr=1e-3)/sgd(lr=1e-2)/annealing``.

Grammar::

    stack    = layer { "/" layer }
    layer    = term { "+" term }
    term     = [ slot ":" ] name [ "@" label ] [ "(" name "=" value { "," … } ")" ] [ "[" pattern { "," pattern } "]" ]
    slot     = "loss" | "init"
    stack    = stack "/" "self" [ "[" pattern { "," pattern } "]" ]

Every strategy of a layer moves each strategy of the layer beneath (the first layer moves the task), as
far as its patterns match. One label is one strategy, wherever it stands. ``self`` closes the loop: each strategy of the
layer beneath moves its own parameters too, ``lstm/self`` like ``lstm@a/lstm@a``. A term with ``loss:`` moves the
parameters of the task's loss instead, one with ``init:`` the point that its episodes start from; both stand over the
strategies that move the task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..checking.errors import RecoptError, shown
from .level import BILEVEL, INIT, LOSS, MOST_LEVELS, TASK, Level
from .plain_yaml import plain_yaml

_TERM = re.compile(
    r"(?:(?P<moves>loss|init)\s*:\s*)?(?P<name>[A-Za-z_][\w.-]*)(?:\s*@(?P<label>[A-Za-z_]\w*))?"
    r"(?:\s*\((?P<settings>[^()]*(?:\([^()]*\)[^()]*)*)\))?(?:\s*\[(?P<only>[^\]]*)\])?"
)
_OF_TASK = {LOSS: "parameters of the task's loss", INIT: "start of the task's episodes"}
SELF = "self"
"""The last element of a stack whose last strategies move themselves."""


@dataclass(frozen=True)
class Term:
    """One strategy in a stack: its plugin name, its slot, its settings, and the patterns it is confined to.

    ``moves`` is the slot that it moves where the stack says so, else None.
    """

    name: str
    slot: str
    settings: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    moves: str | None = None


def split(text: str, mark: str = ",") -> list[str]:
    """``text`` at each ``mark`` outside of brackets."""
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == mark and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


def value_of(text: str) -> Any:
    """The value of a setting: a number, true or false, null, a list of such; anything else is text."""
    text = text.strip()
    if "(" in text and text.startswith("[") and text.endswith("]"):  # of strategies, with commas within brackets
        return [value_of(item) for item in split(text[1:-1])]
    try:
        return plain_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _settings(text: str, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in split(text, ",") if text.strip() else []:
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise RecoptError(f"'{shown(item.strip())}' in {where} should read name=value.")
        key = name.strip().replace("-", "_")
        if key in found:
            raise RecoptError(f"'{shown(key)}' is given twice in {where}: keep one of them.")
        found[key] = value_of(value)
    return found


def parse(text: str) -> list[list[Term]]:
    """The layers of a stack, innermost first.

    Raises:
        RecoptError: if ``text`` is not in the notation, naming the piece that is not.
    """
    layers: list[list[Term]] = []
    used: dict[str, str] = {}
    pieces = [split(layer, "+") for layer in split(text, "/")]
    if sum(map(len, pieces)) > MOST_LEVELS:
        raise RecoptError(f"The stack '{shown(text)}' has more than {MOST_LEVELS:,} strategies: give fewer.")
    for depth, layer in enumerate(pieces, 1):
        terms = []
        for piece in layer:
            match = _TERM.fullmatch(piece.strip())
            if not match:
                what = f"'{shown(piece.strip())}'" if piece.strip() else "an empty place"
                unclosed = any(piece.count(a) > piece.count(b) for a, b in ("()", "[]"))
                like = f"adam(lr=1e-3){': a bracket is not closed' if unclosed else ''}"
                raise RecoptError(f"{what} in stack '{shown(text)}' (level {depth}) should read like {like}.")
            if match["name"] == SELF:
                _check_self(match, layers, len(pieces) > depth or len(pieces[-1]) > 1, text)
                only = _patterns(match)
                terms += [Term(t.name, t.slot, only=only, moves=t.slot) for t in layers[-1]]
            else:
                terms.append(_term(match, depth, used, text))
        layers.append(terms)
    return layers


def _check_self(match: re.Match[str], beneath: Sequence[Sequence[Term]], more: bool, text: str) -> None:
    """Refuse ``self`` anywhere but alone at the end of a stack, with settings of its own, or over no strategy."""
    where = f"'self' in stack '{shown(text)}'"
    if more:
        raise RecoptError(f"{where} closes the loop and stands last and alone: drop what stands above or beside it.")
    if not beneath:
        raise RecoptError(f"{where} has nothing beneath that could move itself: put a strategy there, as in lstm/self.")
    for slot in [match["moves"], *(term.moves for term in beneath[-1])]:
        if slot:
            raise RecoptError(f"{where} stands at the {_OF_TASK[slot]}, and only a strategy of the stack moves itself: "
                              "leave it out.")  # fmt: skip
    if match["label"] or match["settings"] is not None:
        raise RecoptError(
            f"{where} is the strategy beneath: give that its label and settings, as in lstm(hidden=8)/self."
        )


def _patterns(match: re.Match[str]) -> tuple[str, ...]:
    return tuple(p.strip() for p in (match["only"] or "").split(",") if p.strip())


def parse_one(text: str, refusal: RecoptError) -> Term:
    """The only term of ``text``. Raises ``refusal`` if it has another form; mistakes in its brackets have their own."""
    try:
        layers = parse(text)
    except RecoptError as why:
        raise (refusal if " in stack " in str(why) else why) from None
    if len(layers) != 1 or len(layers[0]) != 1 or layers[0][0].moves:
        raise refusal
    return layers[0][0]


def _term(match: re.Match[str], depth: int, used: dict[str, str], text: str) -> Term:
    name, label = match["name"], match["label"]
    settings = _settings(match["settings"] or "", f"'{shown(match[0].strip())}'")
    only = _patterns(match)
    slot = label or name.replace("-", "_")
    if label is None and slot in used:
        slot = f"{slot}{depth}"
        while slot in used:
            slot += "_"
    if slot in used and used[slot] != name:
        both = f"{shown(used[slot])} and {shown(name)}"
        raise RecoptError(f"Label '@{shown(slot)}' names both {both} in stack '{shown(text)}': use two labels.")
    if slot in used and settings:
        raise RecoptError(
            f"'@{shown(slot)}' has its settings where it first stands in '{shown(text)}': drop the later ones."
        )
    used[slot] = name
    return Term(name, slot, settings, only, match["moves"])


def levels_of(layers: Sequence[Sequence[Term]], names: Mapping[str, Sequence[str]]) -> list[Level]:
    """The levels a stack stands for. ``names`` gives the parameter names of each strategy's slot.

    A term with patterns moves the slots beneath in which they match something.
    """
    from fnmatch import fnmatchcase

    levels: list[Level] = []
    beneath = [TASK]
    for depth, layer in enumerate(layers, 1):
        for term in layer:
            if term.moves in BILEVEL and depth != 2:
                raise RecoptError(
                    f"'{term.moves}:{shown(term.name)}' moves the {_OF_TASK[term.moves]}, and the levels of the task "
                    f"score it: let it stand right over them, as in sgd/{term.moves}:adam."
                )
            for slot in [term.moves] if term.moves else beneath:
                have = names.get(slot)
                matches = have is None or any(fnmatchcase(n, p) for n in have for p in term.only)
                if not term.only or matches or len(beneath) == 1:
                    levels.append(Level(moves=slot, by=term.slot, only=term.only))
                if len(levels) > MOST_LEVELS:
                    raise RecoptError(f"The stack has more than {MOST_LEVELS:,} levels: give fewer strategies.")
            if term.only and not any(level.by == term.slot for level in levels):
                what = shown(f"{term.name}[{','.join(term.only)}]")
                raise RecoptError(f"'{what}' matches no parameter of {shown(', '.join(beneath))}.")
        beneath = list(dict.fromkeys(term.slot for term in layer))
    return levels


def notation(levels: Sequence[Level], labels: Mapping[str, str], names: Mapping[str, Sequence[str]]) -> str:
    """Levels as a stack if that stack stands for just these, else as arrows (``task ← adam, adam ← sgd``)."""
    text = "/".join(_layers(levels, labels))
    try:
        found = levels_of(parse(text), names)
    except RecoptError:
        found = []
    if [(x.moves, x.by, x.only) for x in found] == [(x.moves, x.by, x.only) for x in levels]:
        return text
    return ", ".join(f"{level.moves} ← {_written(level, labels)}" for level in levels)


def _layers(levels: Sequence[Level], labels: Mapping[str, str]) -> list[str]:
    """The layers of the stack that would come nearest."""
    layers, beneath, rest = list[str](), [TASK], list(levels)
    labels = dict(labels)
    while rest:
        beneath += BILEVEL if len(layers) == 1 else ()
        firsts = {rest[0].moves, *BILEVEL, *(beneath if rest[0].moves in BILEVEL else [])}
        layer = [level for level in rest if level.moves in beneath and level.moves in firsts]
        layer += [x for x in rest if x.moves in beneath and x not in layer and x.by in {y.by for y in layer}]
        if not layer:
            break
        closing = all(level.moves == level.by for level in rest)
        layers.append(" + ".join(dict.fromkeys(_written(x, {x.by: SELF} if closing else labels) for x in layer)))
        # Settings stand where a label stands first.
        labels |= {level.by: labels.get(level.by, level.by).partition("(")[0] for level in layer}
        rest = [level for level in rest if level not in layer]
        beneath = list(dict.fromkeys(level.by for level in layer))
    return layers


def with_settings(label: str, settings: Mapping[str, float]) -> str:
    """``label``, a strategy in stack notation, with more settings."""
    added = ", ".join(f"{key}={value:g}" for key, value in settings.items())
    return f"{label[:-1]}, {added})" if label.endswith(")") else f"{label}({added})"


def _written(level: Level, labels: Mapping[str, str]) -> str:
    only = f"[{','.join(level.only)}]" if level.only else ""
    return (f"{level.moves}:" if level.moves in BILEVEL else "") + labels.get(level.by, level.by) + only
