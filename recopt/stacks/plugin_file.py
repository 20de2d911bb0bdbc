"""One plugin file: run as a module of its own, with errors that name the line, and the class that it defines."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal, cast

from ..contracts.errors import RecoptError

Kind = Literal["strategy", "task"]
OTHER: dict[Kind, Kind] = {"strategy": "task", "task": "strategy"}


class _Loader(SourceFileLoader):
    """A loader that runs the source as it was read once, and writes no bytecode beside it."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self.source = source

    def get_data(self, path: str) -> bytes:
        return self.source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source, self.path)


def import_file(path: Path, beside: bool = True) -> ModuleType:
    """The module in ``path``, run once: later calls return the same module, until the file changes.

    It goes into ``sys.modules`` under a name made from its path and its text, so that files of the same name do not
    collide.

    Args:
        beside: True if it may import the files beside it; its folder then goes to the end of ``sys.path``.

    Raises:
        RecoptError: if it cannot be read, or raises; with the file, the line, and the error.
    """
    try:
        path = path.resolve()
        source = path.read_bytes()
    except OSError as why:
        raise RecoptError(f"{path} cannot be read: {why.strerror}.") from None
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + source).hexdigest()[:12]
    name = f"recopt_plugin_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Loader(name, str(path), source)
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # given a loader, there is one
    module = module_from_spec(spec)
    if beside and str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # before it runs, as dataclasses and typing look their module up
    try:
        loader.exec_module(module)
    except BaseException as why:
        del sys.modules[name]
        if isinstance(why, Exception | SystemExit):
            raise RecoptError(_blame(path, why)) from why
        raise
    return module


def one_line(why: BaseException) -> str:
    """The kind of error and its text, in one line without a full stop."""
    text = " ".join(str(why).split()).removesuffix(".")
    return f"{type(why).__name__}: {text}" if text else type(why).__name__


def _blame(path: Path, why: BaseException) -> str:
    if isinstance(why, SyntaxError) and why.filename:
        return f"{why.filename}, line {why.lineno}: this is not Python ({why.msg})."
    lines = [f.lineno for f in traceback.extract_tb(why.__traceback__) if f.filename == str(path)]
    place = f"{path}, line {lines[-1]}" if lines else f"{path}"
    if isinstance(why, SystemExit):
        return f"{place}: the file exits when it is imported; put what it runs under if __name__ == '__main__'."
    if isinstance(why, ModuleNotFoundError) and why.name:
        return f"{place}: there is no module '{why.name}': install it, or put {why.name}.py beside the plugin."
    return f"{place}: the file fails when it is imported ({one_line(why)})."


def class_in_file(kind: Kind, path: Path, beside: bool = True) -> type | None:
    """The plugin class in the file ``path``, which is run. Errors as of :func:`import_file` and :func:`class_in`."""
    return class_in(kind, import_file(path, beside), str(path))


def class_in(kind: Kind, module: ModuleType, place: str) -> type | None:
    """The one public plugin class that ``module`` defines; None if it defines one of the other kind instead.

    Raises:
        RecoptError: if it defines none of either kind, or several of this one; naming ``place``.
    """
    found = _public(module, kind)
    if not found and _public(module, OTHER[kind]):
        return None
    base = f"recopt.{base_of(kind).__name__}"
    if not found:
        raise RecoptError(f"{place} defines no public subclass of {base}: a helper's file name starts with '_'.")
    if len(found) > 1:
        names = " and ".join(c.__name__ for c in found)
        raise RecoptError(f"{place} defines {names}: keep one public subclass of {base} and start the others with '_'.")
    return found[0]


def source_of(plugin: type) -> tuple[Path, str]:
    """The file of a plugin's class and its text as it was run, to be saved with its results.

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


def base_of(kind: Kind) -> type:
    """``Strategy`` or ``Task``."""
    module = importlib.import_module(f"..contracts.{kind}", __package__)  # here, since it imports torch
    return cast(type, getattr(module, kind.capitalize()))


def _public(module: ModuleType, kind: Kind) -> list[type]:
    classes = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base_of(kind)))
    return [c for c in dict.fromkeys(classes) if c.__module__ == module.__name__ and not c.__name__.startswith("_")]
