"""The places where plugins are looked for, and what each offers by name, without importing any."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from . import tasks
from .errors import RecoptError
from .plugin_file import Kind, base_of, class_in, class_in_file, one_line

PathLike = str | Path
Places = PathLike | Sequence[PathLike]

_GROUPS: dict[Kind, str] = {"strategy": "recopt.strategies", "task": "recopt.tasks"}
_NAME = re.compile(r"[A-Za-z][\w.-]*")


@dataclass(frozen=True)
class Candidate:
    """A place that has a name; ``load`` imports its class, and returns None if it is of the other kind.

    ``load`` raises RecoptError if what is there cannot be used.
    """

    name: str
    origin: str
    load: Callable[[], type | None]
    path: Path | None = None
    summary: str | None = None  # given where it is known without importing


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


def candidates(kind: Kind, folders: Places) -> Iterator[Candidate]:
    """Every plugin there is, in the order of precedence; none is imported.

    Raises:
        RecoptError: if one of ``folders`` is not there.
    """
    for given in map(Path, [folders] if isinstance(folders, str | Path) else folders):
        if given.is_dir():
            yield from _in_folder(kind, given, f"{given}")
        elif given.is_file() and given.suffix == ".py":
            yield Candidate(canonical(given.stem), f"{given}", partial(class_in_file, kind, given), given)
        else:
            raise RecoptError(f"Plugins cannot be read from '{given}': give a folder or a .py file that exists.")
    if kind == "task":
        for name in tasks.names():
            yield Candidate(canonical(name), "shipped", partial(tasks.get, name), summary=tasks.describe(name))
    else:
        local, shipped = Path("strategies"), shipped_folder("strategies")
        if local.is_dir() and local.resolve() != shipped.resolve():
            found = _in_folder(kind, local, "./strategies")
            yield from (candidate for candidate in found if not _is_copy(candidate.path, shipped))
        yield from _in_folder(kind, shipped, "shipped", beside=False)
    yield from _installed(kind)


def _in_folder(kind: Kind, folder: Path, origin: str, beside: bool = True) -> Iterator[Candidate]:
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith(("_", ".")):
            groups.setdefault(canonical(path.stem), []).append(path)
    for name, paths in groups.items():
        load: Callable[[], type | None] = partial(class_in_file, kind, paths[0], beside)
        if len(paths) > 1:
            load = partial(_refuse, f"{paths[0]} and {paths[1].name} have the same name, '{name}': rename one.")
        elif not _NAME.fullmatch(name):
            load = partial(_refuse, f"'{name}' cannot be written in a stack: rename {paths[0]}.")
        yield Candidate(name, origin, load, paths[0])


def _refuse(text: str) -> None:
    raise RecoptError(text)


def _installed(kind: Kind) -> Iterator[Candidate]:
    groups: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=_GROUPS[kind]):
        groups.setdefault(canonical(point.name), []).append(point)
    for name, points in sorted(groups.items()):
        owners = [point.dist.name if point.dist else point.module for point in points]
        load: Callable[[], type | None] = partial(_class_of_entry, kind, points[0], owners[0])
        if len({point.value for point in points}) > 1:
            both = " and ".join(dict.fromkeys(owners))
            load = partial(_refuse, f"Installed packages offer the {kind} '{name}' more than once ({both}): keep one.")
        yield Candidate(name, f"installed ({owners[0]})", load)


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


def _is_copy(path: Path | None, folder: Path) -> bool:
    """Whether ``folder`` has it too, to the byte: in a checkout, all that is installed is there twice."""
    return path is not None and (folder / path.name).is_file() and same(path, folder / path.name)


def same(a: Path, b: Path) -> bool:
    """Whether two files are one, or have the same content."""
    return a.resolve() == b.resolve() or a.read_bytes() == b.read_bytes()


def canonical(name: str) -> str:
    """``name`` with ``-`` for ``_``: the two are the same."""
    return name.replace("_", "-")
