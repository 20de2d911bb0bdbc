"""Construction of a spec's task, strategies and levels."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError

from ..checking.arguments import checked
from ..checking.errors import RecoptError, shown, unknown
from ..checking.explanations import explain
from ..contracts.settings import Option, declared
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from ..levels.level import Level
from ..levels.notation import levels_of, value_of
from ..levels.seeds import mix
from .failures import RunFailed, failure_message
from .named import Named, named_of
from .places import AROUND, Places, around
from .plugins import load_strategy, load_task

_SETTING = re.compile(r"(?:level(?P<level>\d{1,6})|(?P<slot>task|[A-Za-z_]\w*))\.(?P<key>\w+)")


def make_task(named: Named, seed: int, folders: Sequence[str] = ()) -> Task:
    """The task, seeded. Raises RecoptError on an unknown name or option, RunFailed for an error in a user's task."""
    made = load_task(named.name, folders)
    given = _bound(made, named, "seed")
    with _told_of(f"Making the task {named.name!r}", made):
        return made(seed=seed, **given)


@contextmanager
def _told_of(when: str, plugin: type) -> Iterator[None]:
    try:
        yield
    except RecoptError:
        raise
    except (Exception, SystemExit) as why:
        raise RunFailed(f"{failure_message(why, when, [plugin])}.") from why


def make_strategy(slot: str, named: Named, seed: int, folders: Places = (), where: str = "") -> Strategy:
    """A strategy with initial meta-parameters drawn from ``seed`` and its slot's name; errors name ``where``."""
    return make_strategies({slot: named}, seed, folders, where)[slot]


def _strategy(made: type[Strategy], slot: str, named: Named, seed: int, folders: Places) -> Strategy:
    given, telling = _bound(made, named, "domains"), _told_of(f"Making the strategy {named.name!r}", made)
    with torch.random.fork_rng(devices=[]), telling, around(seed, folders):
        torch.default_generator.manual_seed(mix(seed, 3, *slot.encode()))  # as manual_seed, without other devices
        return made(domains=named.domains or None, **given)


def _bound(made: type, named: Named, own: str) -> dict[str, Any]:
    """The settings of a plugin, which are ones that it can be made with. ``own``: the argument that is none of them."""
    taken = inspect.signature(made).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    for key in named.settings:
        if key in ("self", own) or (key not in taken and not anything):
            known = [name for name in taken if name != own] if not anything else declared(made, Option)
            raise unknown("option", key, known, f"of {shown(named.name)}")
    return dict(named.settings)


@checked
def strategy(text: str, plugins: Places | None = None, seed: int | None = None) -> Strategy:
    """The strategy that is written as in a stack: ``recopt.strategy("adam(lr=0.1)")``.

    Args:
        text: its name, with settings in brackets.
        plugins: folders and files to search first. Where a strategy of a run makes another, None is those of the run.
        seed: of what a learned rule starts from; None is likewise that of the run, and elsewhere 0.

    Raises:
        RecoptError: for an unknown strategy or setting.
    """
    named = Named.model_validate(named_of(text))
    own, places = AROUND.get()
    seed, plugins = own if seed is None else seed, places if plugins is None else plugins
    return make_strategy(named.name.replace("-", "_"), named, seed, plugins, f"in '{shown(text)}'")


def make_strategies(
    found: Mapping[str, Named], seed: int, folders: Places = (), where: str = ""
) -> dict[str, Strategy]:
    """All strategies of a spec, by slot; errors name ``where``, or the slot."""
    classes: dict[str, type[Strategy]] = {}
    for slot, named in found.items():
        if named.name not in classes:
            classes[named.name] = load_strategy(named.name, folders, where or f"in slot '{shown(slot)}'")
    return {slot: _strategy(classes[named.name], slot, named, seed, folders) for slot, named in found.items()}


def stack_levels(layers: Sequence[Sequence[Any]], strategies: Mapping[str, Strategy]) -> list[Level]:
    """The levels of a parsed stack, before defaults are filled in."""
    return levels_of(layers, {slot: [n for n, _ in s.named_parameters()] for slot, s in strategies.items()})


def with_settings(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A spec's mapping with ``level2.every=20``, ``adam.lr=0.1`` or ``task.batch_size=64`` set.

    Raises:
        RecoptError: if a setting has another form, or names something that is not there.
    """
    for text in settings:
        place, _, value = text.partition("=")
        match = _SETTING.fullmatch(place.strip())
        if not match or not value.strip():
            raise RecoptError(f"'{shown(text)}' should read like level2.every=20, adam.lr=0.1 or task.batch_size=64.")
        _set(data, match, value_of(value), shown(place))
    return data


def _set(data: dict[str, Any], match: re.Match[str], value: Any, place: str) -> None:
    key = match["key"]
    if match["level"]:
        number, levels = int(match["level"]), data["levels"]
        if not 1 <= number <= len(levels):
            each = [f"level{n} ({one.get('by')} moves {one.get('moves')})" for n, one in enumerate(levels, 1)]
            have = shown(", ".join(each), 150) if len(levels) > 1 else "one level"
            raise RecoptError(f"There is no level{number} in '{place}': the graph has {have}.")
        if key not in Level.model_fields:
            raise unknown("setting", key, Level.model_fields, f"in '{place}'")
        levels[number - 1][key] = value
    elif match["slot"] == "task":
        data["task"].setdefault("settings", {})[key] = value
    elif match["slot"] in data["strategies"]:
        data["strategies"][match["slot"]].setdefault("settings", {})[key] = value
    else:
        known = ["task", *data["strategies"], *(f"level{n + 1}" for n in range(len(data["levels"])))]
        raise unknown("name", match["slot"], known, f"in '{place}'")


def make_level(data: Mapping[str, Any], number: int) -> Level:
    """A level from a mapping. Raises RecoptError naming ``number`` (from 1) and the field."""
    try:
        return Level.model_validate(dict(data))
    except ValidationError as why:
        raise RecoptError(f"In level{number}: {explain(why, {'': Level.model_fields})}") from None
