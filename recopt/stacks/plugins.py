"""Strategies and tasks, found by name.

A plugin is one Python file with one public subclass of :class:`recopt.Strategy` or :class:`recopt.Task`; its name is
the file's, where ``-`` and ``_`` are the same. The places are searched in this order, and the first that has the
name is taken:

1. folders and files that the user gives (``--plugins``), in their order; they may hold both kinds;
2. ``./strategies`` (strategies only);
3. what comes with recopt;
4. the entry points ``recopt.strategies`` and ``recopt.tasks`` of installed packages.

So a user's file comes before a shipped one of the same name, and an installed package never changes the meaning of a
name. A :class:`recopt.checking.errors.Notice` says so, and whatever is taken from ``./strategies``, before it is run.
A path that ends in ``.py`` is taken as it is. Only the file that is asked for is run, and what it imports from its
own folder, which comes first there; folders share no module. Listings read ``./strategies`` and run nothing in it.

A folder that ``recopt export`` wrote is a strategy too, in each of these places, by the folder's name and with its
trained values. In an installed package, it is a folder inside the package that the entry point names.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..checking.errors import RecoptError, shown
from .places import (
    LOCAL,
    SHIPPED,
    Candidate,
    Places,
    candidates,
    canonical,
    find,
    is_export,
    load_announced,
    shadowed,
    unknown_plugin,
)  # fmt: skip
from .plugin_file import Kind, class_in_file

if TYPE_CHECKING:
    from ..contracts.strategy import Strategy
    from ..contracts.task import Task


@dataclass(frozen=True)
class PluginInfo:
    """A plugin as listings show it.

    Attributes:
        name: the plugin's name.
        kind: ``strategy`` or ``task``.
        origin: ``shipped``, ``installed (DISTRIBUTION)``, or the folder or file it was found in.
        path: its file or folder, where it has one of its own.
        summary: the first line of its docstring.
        problem: why it cannot be used; None if it can.
        trained: True if it is an export, with trained values.
        shadows: the origins of others of the same name, which are not used.
    """

    name: str
    kind: Kind
    origin: str
    path: Path | None = None
    summary: str = ""
    problem: str | None = None
    trained: bool = False
    shadows: tuple[str, ...] = ()


def load_strategy(name: str, folders: Places = (), where: str = "") -> type[Strategy]:
    """The strategy class called ``name``, or the one in the file ``name`` if that ends in ``.py``.

    Args:
        folders: folders and files to search first.
        where: the place to name in an error, such as ``in 'adm/sgd'``.

    Raises:
        RecoptError: for an unknown name, a folder that is not there, or a plugin that cannot be used.
    """
    return cast("type[Strategy]", find("strategy", name, folders, where, _trained))


def load_task(name: str, folders: Places = (), where: str = "") -> type[Task]:
    """The task class called ``name``, or the one in the file ``name`` if that ends in ``.py``.

    Arguments and errors as of :func:`load_strategy`.
    """
    return cast("type[Task]", find("task", name, folders, where, _trained))


def load_any(name: str, folders: Places = ()) -> tuple[Kind, type]:
    """The kind and class of the plugin ``name``: a name (strategies first), a ``.py`` file, or the folder of an export.

    Raises:
        RecoptError: as :func:`load_strategy`.
    """
    if name.endswith(".py"):
        if not os.path.isfile(name):
            given = shown(name, 100)
            raise RecoptError(f"There is no file '{given}': give the path of a file with a strategy or a task.")
        found = class_in_file("strategy", Path(name))
        return ("task", load_task(name)) if found is None else ("strategy", found)
    if is_export(Path(name)):
        folder = Path(name)
        return "strategy", _trained(folder, canonical(folder.resolve().name))
    kinds: tuple[Kind, Kind] = ("strategy", "task")
    for kind in kinds:
        matching = [c for c in candidates(kind, folders, _trained) if c.name == canonical(name)]
        for i, candidate in enumerate(matching):
            if (found := load_announced(kind, candidate, matching[i + 1 :])) is not None:
                return kind, found
    raise unknown_plugin(
        "strategy or task", name, {c.name for kind in kinds for c in candidates(kind, folders, _trained)}
    )


def is_known(kind: Kind, name: str, folders: Places = ()) -> bool:
    """True if there is a plugin, or a file, of that name; none is imported.

    Raises:
        RecoptError: if one of ``folders`` is not there.
    """
    if name.endswith(".py"):
        return os.path.isfile(name)
    return any(candidate.name == canonical(name) for candidate in candidates(kind, folders, _trained))


def list_strategies(folders: Places = ()) -> list[PluginInfo]:
    """All strategies, sorted by name. A broken one has its ``problem``, and does not hinder the others.

    Raises:
        RecoptError: if one of ``folders`` is not there.
    """
    return _list("strategy", folders)


def list_tasks(folders: Places = ()) -> list[PluginInfo]:
    """All tasks, as :func:`list_strategies`."""
    return _list("task", folders)


def _trained(folder: Path, name: str) -> type:
    from .exported import trained_class  # here, since it imports torch

    return trained_class(folder, name)


def _list(kind: Kind, folders: Places) -> list[PluginInfo]:
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates(kind, folders, _trained):
        groups.setdefault(candidate.name, []).append(candidate)
    infos = (_first_info(kind, group) for _, group in sorted(groups.items()))
    return [info for info in infos if info is not None]


def _first_info(kind: Kind, group: list[Candidate]) -> PluginInfo | None:
    for i, candidate in enumerate(group):
        info = PluginInfo(candidate.name, kind, candidate.origin, candidate.path)
        info = replace(info, shadows=tuple(shadowed(candidate, group[i + 1 :])))
        try:
            if candidate.summary is not None:
                return replace(info, summary=candidate.summary())
            from .exported import Trained, read_folder  # here, since it imports torch

            if candidate.origin in (LOCAL, SHIPPED) and candidate.path is not None:
                return replace(info, summary=read_folder(candidate.path).card.partition("\n")[0], trained=True)
            found = candidate.load()
        except RecoptError as why:
            return replace(info, problem=str(why))
        if found is not None:
            return replace(info, summary=_summary(found), trained=issubclass(found, Trained))
    return None


def _summary(plugin: type) -> str:
    text = plugin.__dict__.get("__doc__") or getattr(sys.modules.get(plugin.__module__), "__doc__", None) or ""
    return inspect.cleandoc(text).partition("\n")[0]
