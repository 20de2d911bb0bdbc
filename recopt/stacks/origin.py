"""The origin of a plugin's class: the name that finds it again, and the digest of its source."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from .. import tasks
from ..checking.errors import Notice, RecoptError
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from .exported import VALUES, Trained
from .places import STACK, Places, candidates, canonical, same, shipped_folder
from .plugin_file import Kind, digest_of, sources_of

_LENGTH = 16
"""Hexadecimal digits of a digest."""


def name_of(kind: Kind, plugin: type, folders: Places = ()) -> str:
    """The name that finds a class again, or its file; ``FILE:CLASS``, which finds nothing, if there is neither.

    A class of a notebook or a script has no name, whatever else is called as it is.
    """
    if issubclass(plugin, Trained):
        return plugin.name
    if issubclass(plugin, Task) and (shipped := tasks.name_of(plugin)):
        return shipped
    given = getattr(sys.modules.get(plugin.__module__), "__file__", None)
    if given is None:
        return f"interactive:{plugin.__name__}"
    file = Path(given).resolve()
    name = canonical(file.stem)
    found = next((c for c in candidates(kind, folders) if c.name == name), None)
    public = plugin.__module__ != "__main__" and plugin.__qualname__ == plugin.__name__.lstrip("_")
    if found and public and (same(found.path, file) if found.path else found.load() is plugin):
        return name
    return str(file) if sources_of(plugin) else f"{file.name}:{plugin.__name__}"


def held_by(strategies: Iterable[Strategy]) -> list[tuple[str, type[Strategy]]]:
    """The rules that ``strategies`` hold within them (as ``switch`` does), each with a name and its class."""
    held = [type(m) for one in strategies for m in one.modules() if isinstance(m, Strategy) and m is not one]
    return [(rule.name if issubclass(rule, Trained) else next(iter(map(str, sources_of(rule))), rule.__name__), rule)
            for rule in dict.fromkeys(held)]  # fmt: skip


def digests(task: tuple[str, type], strategies: Iterable[tuple[str, type]]) -> dict[str, str]:
    """The digests of the user's own plugins, by kind and name, such as ``strategy mine``."""
    found: dict[str, str] = {}
    for kind, name, plugin in [("task", *task), *(("strategy", *pair) for pair in strategies)]:
        if content := _digest(plugin):
            found[f"{kind} {canonical(Path(name).stem)}"] = content
    return found


def _digest(plugin: type) -> str | None:
    """The digest of a plugin's source or export; None for those of recopt or an installed package, or from Python."""
    shipped = shipped_folder("strategies").resolve()
    if issubclass(plugin, Trained):
        folder = plugin.export.folder
        if folder.resolve().parent == shipped:
            return None
        return hashlib.sha256((folder / STACK).read_bytes() + (folder / VALUES).read_bytes()).hexdigest()[:_LENGTH]
    sources = sources_of(plugin)
    return digest_of(sources)[:_LENGTH] if sources and next(iter(sources)).parent != shipped else None


def check_digests(recorded: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Say in a :class:`Notice` that a plugin is not what was recorded."""
    for key, digest in now.items():
        if recorded.get(key, digest) != digest:
            kind, _, name = key.partition(" ")
            text = f"{kind.capitalize()} '{name}' has changed since it was recorded: its source has the digest {digest}"
            warnings.warn(f"{text}, and had {recorded[key]}.", Notice, stacklevel=3)


def check_apart(plugins: Iterable[type]) -> None:
    """Refuse plugins that cannot be kept in one folder.

    Raises:
        RecoptError: if two have different modules of one name beside them.
    """
    kept: dict[Path, tuple[Path, bytes]] = {}
    for sources in map(sources_of, plugins):
        for file, content in sources.items():
            other, before = kept.setdefault(file.relative_to(next(iter(sources)).parent), (file, content))
            if before != content:
                raise RecoptError(f"{file} and {other} cannot be kept with one run: rename one of them.")
