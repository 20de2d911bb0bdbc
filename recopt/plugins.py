"""Strategies and tasks, found by name.

A plugin is one Python file with one public subclass of :class:`recopt.Strategy` or :class:`recopt.Task`; its name is
the file's, where ``-`` and ``_`` are the same. The places are searched in this order, and the first that has the
name is taken:

1. folders and files that the user gives (``--plugins``), in their order; they may hold both kinds;
2. ``./strategies`` (strategies only);
3. what comes with recopt;
4. the entry points ``recopt.strategies`` and ``recopt.tasks`` of installed packages.

So a user's file goes before a shipped one of the same name, with a :class:`ShadowedPlugin` warning, and an
installed package never changes what a name means. A path that ends in ``.py`` is taken as it is. Only the file
that is asked for is run; a user's folder is added at the end of ``sys.path``, so that a plugin may import what is
beside it.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from . import tasks
from .errors import RecoptError, unknown
from .plugin_file import OTHER, Kind, base_of, class_in, class_in_file, one_line

if TYPE_CHECKING:
    from .strategy import Strategy
    from .task import Task

PathLike = str | Path
Places = PathLike | Sequence[PathLike]

_GROUPS: dict[Kind, str] = {"strategy": "recopt.strategies", "task": "recopt.tasks"}
_NAME = re.compile(r"[A-Za-z][\w.-]*")


class ShadowedPlugin(UserWarning):
    """Another plugin of the same name is not used."""


@dataclass(frozen=True)
class PluginInfo:
    """What a listing shows of a plugin.

    Attributes:
        name: the name it is asked for by.
        kind: ``strategy`` or ``task``.
        origin: ``shipped``, ``installed (DISTRIBUTION)``, or the folder or file it was found in.
        path: its file, where it is one of its own.
        summary: the first line of its docstring.
        problem: why it cannot be used; None if it can.
        shadows: the origins of others of the same name, which are not used.
    """

    name: str
    kind: Kind
    origin: str
    path: Path | None = None
    summary: str = ""
    problem: str | None = None
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A place that has a name; ``load`` imports its class, and returns None if it is of the other kind."""

    name: str
    origin: str
    load: Callable[[], type | None]
    path: Path | None = None
    summary: str | None = None  # given where it is known without importing


def load_strategy(name: str, folders: Places = (), where: str = "") -> type[Strategy]:
    """The strategy class called ``name``, or the one in the file ``name`` if that ends in ``.py``.

    Args:
        folders: folders and files to search first.
        where: the place to name in a refusal, such as ``in 'adm/sgd'``.

    Raises:
        RecoptError: for an unknown name, a folder that is not there, or a plugin that cannot be used.
    """
    return cast("type[Strategy]", _load("strategy", name, folders, where))


def load_task(name: str, folders: Places = (), where: str = "") -> type[Task]:
    """The task class called ``name``, or the one in the file ``name`` if that ends in ``.py``.

    Arguments and refusals as for :func:`load_strategy`.
    """
    return cast("type[Task]", _load("task", name, folders, where))


def load_any(name: str, folders: Places = ()) -> tuple[Kind, type]:
    """The strategy or the task called ``name`` (of a name that is both, the strategy), or in the file ``name``.

    Raises:
        RecoptError: as :func:`load_strategy`.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise RecoptError(f"There is no file '{name}': give the path of a file with a strategy or a task.")
        found = class_in_file("strategy", Path(name))
        return ("task", load_task(name)) if found is None else ("strategy", found)
    kinds: tuple[Kind, Kind] = ("strategy", "task")
    for kind in kinds:
        for candidate in _candidates(kind, folders):
            found = candidate.load() if candidate.name == _canonical(name) else None
            if found is not None:
                return kind, found
    raise unknown("strategy or task", name, {c.name for kind in kinds for c in _candidates(kind, folders)})


def is_known(kind: Kind, name: str, folders: Places = ()) -> bool:
    """Whether there is a plugin of that name, or a file, without importing any.

    Raises:
        RecoptError: if one of ``folders`` is not there.
    """
    if name.endswith(".py"):
        return Path(name).is_file()
    return any(candidate.name == _canonical(name) for candidate in _candidates(kind, folders))


def list_strategies(folders: Places = ()) -> list[PluginInfo]:
    """All strategies, sorted by name. One that is broken has its ``problem``, and hinders no other.

    Raises:
        RecoptError: if one of ``folders`` is not there.
    """
    return _list("strategy", folders)


def list_tasks(folders: Places = ()) -> list[PluginInfo]:
    """All tasks, as :func:`list_strategies`."""
    return _list("task", folders)


def source_of(plugin: type) -> tuple[Path, str]:
    """The file of a plugin's class and its text as it was run, to be saved with what it produced.

    Raises:
        RecoptError: if the class comes from no file (an interactive session).
    """
    module = sys.modules.get(plugin.__module__)
    path, get_source = (
        getattr(module, "__file__", None),
        getattr(getattr(module, "__loader__", None), "get_source", None),
    )
    text = get_source(plugin.__module__) if path and get_source else None
    if path is None or text is None:
        raise RecoptError(f"The source of {plugin.__name__} is not in a file: write it into one.")
    return Path(path), text


def shipped_folder(name: Literal["strategies", "runs"]) -> Path:
    """Where the shipped strategies or run specs are: in the package, or beside it in a checkout.

    Raises:
        RecoptError: if they are in neither place.
    """
    package = Path(__file__).parent
    checkout = package.parent
    if (package / f"_{name}").is_dir():
        return package / f"_{name}"
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise RecoptError(f"This installation of recopt lacks its folder '{name}': install it again.")


def _load(kind: Kind, name: str, folders: Places, where: str) -> type:
    if name.endswith(".py"):
        return _load_path(kind, Path(name), where)
    candidates = list(_candidates(kind, folders))
    matching = [c for c in candidates if c.name == _canonical(name)]
    for i, candidate in enumerate(matching):
        found = candidate.load()
        if found is not None:
            if others := _shadowed(candidate, matching[i + 1 :]):
                text = f"{kind.capitalize()} '{candidate.name}' is taken from {candidate.origin}, not {others[0]}."
                warnings.warn(text, ShadowedPlugin, stacklevel=3)
            return found
    if matching or any(c.name == _canonical(name) for c in _candidates(OTHER[kind], folders)):
        place = f" {where}" if where else ""
        raise RecoptError(f"'{name}'{place} is a {OTHER[kind]}, not a {kind}.")
    files = [f"{name}.py"] if Path(f"{name}.py").is_file() else []
    raise unknown(kind, name, [*(c.name for c in candidates), *files], where)


def _load_path(kind: Kind, path: Path, where: str) -> type:
    if not path.is_file():
        place = f" {where}" if where else ""
        raise RecoptError(f"There is no file '{path}'{place}: give the path of a file with a {kind}.")
    found = class_in_file(kind, path)
    if found is None:
        raise RecoptError(f"{path} defines a {OTHER[kind]}, not a {kind}.")
    return found


def _list(kind: Kind, folders: Places) -> list[PluginInfo]:
    groups: dict[str, list[_Candidate]] = {}
    for candidate in _candidates(kind, folders):
        groups.setdefault(candidate.name, []).append(candidate)
    infos = (_first_info(kind, group) for _, group in sorted(groups.items()))
    return [info for info in infos if info is not None]


def _first_info(kind: Kind, group: list[_Candidate]) -> PluginInfo | None:
    for i, candidate in enumerate(group):
        info = PluginInfo(candidate.name, kind, candidate.origin, candidate.path)
        info = replace(info, shadows=tuple(_shadowed(candidate, group[i + 1 :])))
        if candidate.summary is not None:
            return replace(info, summary=candidate.summary)
        try:
            found = candidate.load()
        except RecoptError as why:
            return replace(info, problem=str(why))
        if found is not None:
            return replace(info, summary=_summary(found))
    return None


def _summary(plugin: type) -> str:
    text = plugin.__dict__.get("__doc__") or getattr(sys.modules.get(plugin.__module__), "__doc__", None) or ""
    return inspect.cleandoc(text).partition("\n")[0]


def _shadowed(taken: _Candidate, others: Iterable[_Candidate]) -> list[str]:
    """The origins of ``others``, but for copies of what is taken."""
    return [o.origin for o in others if not (taken.path and o.path and _same(taken.path, o.path))]


def _is_copy(path: Path | None, folder: Path) -> bool:
    """Whether ``folder`` has it too, to the byte: in a checkout, all that is installed is there twice."""
    return path is not None and (folder / path.name).is_file() and _same(path, folder / path.name)


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or a.read_bytes() == b.read_bytes()


def _canonical(name: str) -> str:
    return name.replace("_", "-")


def _candidates(kind: Kind, folders: Places) -> Iterator[_Candidate]:
    """Every plugin there is, in the order of precedence; none is imported."""
    for given in map(Path, [folders] if isinstance(folders, str | Path) else folders):
        if given.is_dir():
            yield from _in_folder(kind, given, f"{given}")
        elif given.is_file() and given.suffix == ".py":
            yield _Candidate(_canonical(given.stem), f"{given}", partial(class_in_file, kind, given), given)
        else:
            raise RecoptError(f"Plugins cannot be read from '{given}': give a folder or a .py file that exists.")
    if kind == "task":
        for name in tasks.names():
            yield _Candidate(_canonical(name), "shipped", partial(tasks.get, name), summary=tasks.describe(name))
    else:
        local, shipped = Path("strategies"), shipped_folder("strategies")
        if local.is_dir() and local.resolve() != shipped.resolve():
            found = _in_folder(kind, local, "./strategies")
            yield from (candidate for candidate in found if not _is_copy(candidate.path, shipped))
        yield from _in_folder(kind, shipped, "shipped", beside=False)
    yield from _installed(kind)


def _in_folder(kind: Kind, folder: Path, origin: str, beside: bool = True) -> Iterator[_Candidate]:
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith(("_", ".")):
            groups.setdefault(_canonical(path.stem), []).append(path)
    for name, paths in groups.items():
        load: Callable[[], type | None] = partial(class_in_file, kind, paths[0], beside)
        if len(paths) > 1:
            load = partial(_refuse, f"{paths[0]} and {paths[1].name} have the same name, '{name}': rename one.")
        elif not _NAME.fullmatch(name):
            load = partial(_refuse, f"'{name}' cannot be written in a stack: rename {paths[0]}.")
        yield _Candidate(name, origin, load, paths[0])


def _refuse(text: str) -> None:
    raise RecoptError(text)


def _installed(kind: Kind) -> Iterator[_Candidate]:
    groups: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=_GROUPS[kind]):
        groups.setdefault(_canonical(point.name), []).append(point)
    for name, points in sorted(groups.items()):
        owners = [point.dist.name if point.dist else point.module for point in points]
        load: Callable[[], type | None] = partial(_class_of_entry, kind, points[0], owners[0])
        if len({point.value for point in points}) > 1:
            both = " and ".join(dict.fromkeys(owners))
            load = partial(_refuse, f"Installed packages offer the {kind} '{name}' more than once ({both}): keep one.")
        yield _Candidate(name, f"installed ({owners[0]})", load)


def _class_of_entry(kind: Kind, point: metadata.EntryPoint, owner: str) -> type | None:
    place = f"The {kind} '{point.name}' of the installed package {owner}"
    try:
        loaded = point.load()
    except (Exception, SystemExit) as why:
        raise RecoptError(f"{place} cannot be imported: {one_line(why)}.") from why
    if isinstance(loaded, type):
        if not issubclass(loaded, base_of(kind)):
            raise RecoptError(f"{place} is no subclass of recopt.{base_of(kind).__name__}: {point.value}.")
        return loaded
    return class_in(kind, loaded, place)
