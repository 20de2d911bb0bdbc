"""The places where plugins are searched, and the names in each; only the plugin that is asked for is imported."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Literal, NoReturn

from .. import tasks
from ..checking.errors import Notice, RecoptError, shown, unknown
from .plugin_file import OTHER, Kind, base_of, class_in, class_in_file, one_line, summary_in

PathLike = str | Path
Places = PathLike | Sequence[PathLike]
Read = Callable[[Path, str], type]
"""A function of an export's folder and name that makes its strategy class. Raises RecoptError if there is none."""

_GROUPS: dict[Kind, str] = {"strategy": "recopt.strategies", "task": "recopt.tasks"}
_NAME = re.compile(r"[A-Za-z][\w.-]*")
LOCAL, SHIPPED = "./strategies", "shipped"
AROUND: ContextVar[tuple[int, Places]] = ContextVar("AROUND", default=(0, ()))
"""The seed and the places of plugins with which a strategy is being made, for those that it makes itself."""
STACK = "stack.json"
"""The file that marks a folder as an export of trained strategies."""


@dataclass(frozen=True)
class Candidate:
    """A plugin found by name; ``load`` imports its class, and returns None if it is of the other kind.

    ``load`` raises RecoptError if the plugin cannot be used.
    """

    name: str
    origin: str
    load: Callable[[], type | None]
    path: Path | None = None
    summary: Callable[[], str] | None = None  # where it can be known without importing


@contextmanager
def around(seed: int, places: Places) -> Iterator[None]:
    """Have strategies that others make drawn from ``seed`` and searched in ``places``, for as long as this lasts."""
    before = AROUND.set((seed, places))
    try:
        yield
    finally:
        AROUND.reset(before)


def shipped_folder(name: Literal["strategies", "runs"]) -> Path:
    """The folder of the shipped strategies or run specs: in the package, or beside it in a checkout.

    Raises:
        RecoptError: if they are in neither place.
    """
    package = Path(__file__).parents[1]
    checkout = package.parent
    if (package / f"_{name}").is_dir():
        return package / f"_{name}"
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise RecoptError(f"This installation of recopt lacks its folder '{name}': install it again.")


def is_export(path: Path) -> bool:
    """True if ``path`` is a folder that ``recopt export`` wrote, by its content."""
    return os.path.isfile(path / STACK)


def candidates(kind: Kind, folders: Places, read: Read | None = None) -> Iterator[Candidate]:
    """Every plugin there is, in the order of precedence; none is imported.

    Args:
        read: reads exports of trained strategies; None leaves exports out.

    Raises:
        RecoptError: if one of ``folders`` is not there.
    """
    for given in map(Path, [folders] if isinstance(folders, str | Path) else folders):
        if is_export(given) and read:
            yield _one(kind, canonical(given.resolve().name), [given], f"{given}", read)
        elif os.path.isdir(given):
            shipped = given.resolve() == shipped_folder("strategies").resolve()
            yield from _in_folder(kind, given, SHIPPED if shipped else f"{given}", read, beside=not shipped)
        elif os.path.isfile(given) and given.suffix == ".py":
            yield Candidate(canonical(given.stem), f"{given}", partial(class_in_file, kind, given), given)
        else:
            place = shown(str(given), 100)
            raise RecoptError(f"Plugins cannot be read from '{place}': give a folder or a .py file that exists.")
    if kind == "task":
        for name in tasks.names():
            yield Candidate(canonical(name), SHIPPED, partial(tasks.get, name), None, partial(tasks.describe, name))
    else:
        local, home = Path("strategies"), shipped_folder("strategies")
        if local.is_dir() and local.resolve() != home.resolve():
            found = _in_folder(kind, local, LOCAL, read)
            yield from (candidate for candidate in found if not _is_copy(candidate.path, home))
        yield from _in_folder(kind, home, SHIPPED, read, beside=False)
    yield from _installed(kind, read)


def _in_folder(kind: Kind, folder: Path, origin: str, read: Read | None, beside: bool = True) -> Iterator[Candidate]:
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        taken = path.suffix == ".py" and path.is_file()
        if not path.name.startswith(("_", ".")) and (taken or (read and is_export(path))):
            groups.setdefault(canonical(path.stem if taken else path.name), []).append(path)
    for name, paths in groups.items():
        yield _one(kind, name, paths, origin, read, beside)


def _one(kind: Kind, name: str, paths: list[Path], origin: str, read: Read | None, beside: bool = True) -> Candidate:
    """The file or export at ``paths[0]``; it cannot be loaded if other ``paths`` have the same name."""
    path = paths[0]
    load: Callable[[], type | None] = partial(class_in_file, kind, path, beside)
    # Nobody asked that these be run:
    summary: Callable[[], str] | None = partial(summary_in, path) if origin in (LOCAL, SHIPPED) else None
    if len(paths) > 1:
        load = summary = partial(_refuse, f"{path} and {paths[1].name} have the same name, '{name}': rename one.")
    elif not _NAME.fullmatch(name):
        load = summary = partial(_refuse, f"'{name}' cannot be written in a stack: rename {path}.")
    elif read and is_export(path):
        load, summary = partial(_read, kind, path, name, read), None
    return Candidate(name, origin, load, path, summary)


def _read(kind: Kind, folder: Path, name: str, read: Read) -> type | None:
    return read(folder, name) if kind == "strategy" else None


def _refuse(text: str) -> NoReturn:
    raise RecoptError(text)


@lru_cache(8)
def _entry_points(group: str, path: tuple[str, ...]) -> metadata.EntryPoints:
    """The entry points of the packages in ``path``, read once: there may be hundreds of files."""
    return metadata.entry_points(group=group)


def _installed(kind: Kind, read: Read | None) -> Iterator[Candidate]:
    groups: dict[str, list[metadata.EntryPoint]] = {}
    for point in _entry_points(_GROUPS[kind], tuple(sys.path)):
        groups.setdefault(canonical(point.name), []).append(point)
    for name, points in sorted(groups.items()):
        owners = [point.dist.name if point.dist else point.module for point in points]
        load: Callable[[], type | None] = partial(_class_of_entry, kind, points[0], owners[0], read)
        if len({point.value for point in points}) > 1:
            both = " and ".join(dict.fromkeys(owners))
            load = partial(_refuse, f"Installed packages offer the {kind} '{name}' more than once ({both}): keep one.")
        yield Candidate(name, f"installed ({owners[0]})", load)


def _class_of_entry(kind: Kind, point: metadata.EntryPoint, owner: str, read: Read | None) -> type | None:
    place = f"The {kind} '{point.name}' of the installed package {owner}"
    try:
        loaded = point.load()
    except (Exception, SystemExit) as why:
        raise RecoptError(f"{place} cannot be imported: {one_line(why)}.") from why
    if isinstance(loaded, type):
        if not issubclass(loaded, base_of(kind)):
            raise RecoptError(f"{place} is no subclass of recopt.{base_of(kind).__name__}: {point.value}.")
        return loaded
    for folder in map(Path, getattr(loaded, "__path__", ())):  # a package's folder may be an export
        if is_export(folder):
            return _read(kind, folder, canonical(point.name), read) if read else None
    return class_in(kind, loaded, place)


def _is_copy(path: Path | None, folder: Path) -> bool:
    """True if ``folder`` has an identical file or folder, as a checkout has of everything that is installed."""
    return path is not None and (folder / path.name).exists() and same(path, folder / path.name)


def same(a: Path, b: Path) -> bool:
    """True if two files or folders are one, or have the same content."""
    return a.resolve() == b.resolve() or _content(a) == _content(b)


def _content(path: Path) -> dict[Path, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path): file.read_bytes() for file in files}


def canonical(name: str) -> str:
    """``name`` with ``-`` for ``_``: the two mean the same."""
    return name.replace("_", "-")


def find(kind: Kind, name: str, folders: Places = (), where: str = "", read: Read | None = None) -> type:
    """The class of the plugin called ``name``, or the one in the file ``name`` if that ends in ``.py``.

    Args:
        where: the place to name in an error.
        read: reads exports, which are plugins too; None leaves exports out.

    Raises:
        RecoptError: for an unknown name, a folder that is not there, or a plugin that cannot be used.
    """
    if name.endswith(".py"):
        return _load_path(kind, Path(name), where)
    if ":" in name:
        raise RecoptError(
            f"The {kind} '{name}' is a class that was given from Python, which no name finds: put it into a file of "
            "its own, and give that."
        )
    places = list(candidates(kind, folders, read))
    matching = [c for c in places if c.name == canonical(name)]
    for i, candidate in enumerate(matching):
        found = load_announced(kind, candidate, matching[i + 1 :])
        if found is not None:
            return found
    if matching or any(c.name == canonical(name) for c in candidates(OTHER[kind], folders, read)):
        place = f" {where}" if where else ""
        raise RecoptError(f"'{shown(name)}'{place} is a {OTHER[kind]}, not a {kind}.")
    files = [f"{name}.py"] if os.path.isfile(f"{name}.py") else []
    raise unknown_plugin(kind, name, [*(c.name for c in places), *files], where)


_WRITTEN_AS = {
    "adamw": "adam is AdamW (its weight_decay is decoupled): write adam",
    "amsgrad": "adam is the nearest", "adamax": "adam is the nearest", "nadam": "adam is the nearest",
    "radam": "adam is the nearest", "adadelta": "rmsprop is the nearest", "lamb": "adam is the nearest",
    "momentum": "write sgd(momentum=0.9)", "nesterov": "write sgd(momentum=0.9, nesterov=true)",
    "nag": "write sgd(momentum=0.9, nesterov=true)", "lion": "adam is the nearest", "muon": "adam is the nearest",
    **dict.fromkeys(("adafactor", "adan", "adabelief", "shampoo", "soap", "sophia", "lbfgs"), "adam is the nearest"),
    "cma-es": "write cmaes", "ipop": "write cmaes(restarts=ipop)", "bipop": "write cmaes(restarts=bipop)",
    **dict.fromkeys(("parallel-tempering", "replica-exchange"), "write tempering"),
    **dict.fromkeys(("dual-annealing", "nelder-mead", "powell", "bfgs"), "basin-hopping is the nearest"),
}  # fmt: skip
"""Rules by which users ask for others: which of those that are here is meant, or nearest."""


def unknown_plugin(kind: str, name: str, known: Iterable[str], where: str = "") -> RecoptError:
    """The error for a name that no plugin has."""
    known, plain = list(known), canonical(name).lower()
    place = f" {where}" if where else ""
    if plain in known and plain != canonical(name):
        return RecoptError(f"Unknown {kind} '{name}'{place}. Did you mean '{plain}'?")
    if kind == "task" or plain not in _WRITTEN_AS:
        return unknown(kind, name, known, where)
    own = "" if "write" in _WRITTEN_AS[plain] else f"; 'recopt new strategy {plain.replace('-', '_')}' begins one"
    return RecoptError(f"Unknown {kind} '{name}'{place}: {_WRITTEN_AS[plain]}{own}.")


def load_announced(kind: Kind, candidate: Candidate, others: Iterable[Candidate]) -> type | None:
    """The class of ``candidate``, with a :class:`Notice` if it is taken from ./strategies, or instead of others.

    Nobody names ./strategies, so what is there is announced before it runs.
    """
    hidden = [origin for origin in shadowed(candidate, others) if (candidate.origin, origin) != (SHIPPED, LOCAL)]
    text = f"{kind.capitalize()} '{candidate.name}' is taken from {candidate.origin}"
    text += f", not {hidden[0]}." if hidden else "."
    if candidate.origin == LOCAL:
        warnings.warn(text, Notice, stacklevel=4)
    found = candidate.load()
    if found is not None and hidden and candidate.origin != LOCAL:
        warnings.warn(text, Notice, stacklevel=4)
    return found


def _load_path(kind: Kind, path: Path, where: str) -> type:
    if not os.path.isfile(path):
        place = f" {where}" if where else ""
        raise RecoptError(f"There is no file '{shown(str(path), 100)}'{place}: give the path of a file with a {kind}.")
    found = class_in_file(kind, path)
    if found is None:
        raise RecoptError(f"{path} defines a {OTHER[kind]}, not a {kind}.")
    return found


def shadowed(taken: Candidate, others: Iterable[Candidate]) -> list[str]:
    """The origins of ``others``, without those that are copies of ``taken``."""
    return [o.origin for o in others if not (taken.path and o.path and same(taken.path, o.path))]
