"""One plugin file: run with the modules beside it as a namespace of its own, and the class that it defines."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal, cast

from ..checking.errors import RecoptError

Kind = Literal["strategy", "task"]
OTHER: dict[Kind, Kind] = {"strategy": "task", "task": "strategy"}
FROM_FILE = "recopt_plugin_"
"""The prefix of the module names of plugins that were loaded from a file."""
_NEVER_BESIDE = ("recopt", "torch")
Sources = Mapping[Path, bytes]
"""The files of a plugin as they were read once, its own the first: it, and the modules beside it that it imports."""


class _Loader(SourceFileLoader):
    """Runs a plugin's ``sources``, without bytecode; in its ``folder`` if given, an import looks beside it first."""

    def __init__(self, name: str, path: str, sources: Sources, folder: Path | None) -> None:
        super().__init__(name, path)
        self.sources, self.folder = sources, folder

    def get_data(self, path: str) -> bytes:
        return self.sources.get(Path(path)) or super().get_data(path)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        if self.folder is not None:
            look = _import_beside(module.__name__.partition(".")[0], str(self.folder))
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": look}
        super().exec_module(module)


class _Beside(MetaPathFinder):
    """Finds the modules beside a plugin as submodules of it, so that folders share none and an edit is seen."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(FROM_FILE) or path is None:
            return None
        of = getattr(sys.modules[fullname.partition(".")[0]], "__loader__", None)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(of, _Loader) and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.loader.path, of.sources, of.folder)
        return spec


def _import_beside(namespace: str, folder: str) -> Callable[..., Any]:
    """The ``__import__`` of modules in ``folder``: what is beside them comes first, as it does for a script."""
    known: dict[str, bool] = {}

    def look(name: str, own: Any = None, local: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        first = name.partition(".")[0]
        if level == 0 and first not in known:
            known[first] = first not in _NEVER_BESIDE and _is_beside(first, folder)
        if level or not known[first]:
            return builtins.__import__(name, own, local, fromlist, level)
        found = builtins.__import__(f"{namespace}.{name}", own, local, fromlist, 0)
        return found if fromlist else sys.modules[f"{namespace}.{first}"]

    return look


def _is_beside(name: str, folder: str) -> bool:
    found = PathFinder.find_spec(name, [folder])
    plain = found is not None and found.origin is not None  # a folder without __init__.py comes last, as for Python
    return plain or (found is not None and find_spec(name) is None)


def read_sources(path: Path) -> dict[Path, bytes]:
    """The file of a plugin and all that it imports from its folder, by their paths.

    Raises:
        OSError: if the file cannot be read.
    """
    found, todo = dict[Path, bytes](), [path]
    while todo:
        file = todo.pop()
        if file not in found:
            found[file] = file.read_bytes()
            for name in _imported(found[file]) if file.suffix == ".py" else ():
                todo += _files_of(path.parent, name)
    return found


def _files_of(folder: Path, name: str) -> list[Path]:
    package, module = folder / name, folder / f"{name}.py"
    if name in _NEVER_BESIDE:
        return []
    if (package / "__init__.py").is_file():
        return sorted(file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return [module] if module.is_file() else sorted(package.rglob("*.py"))


def _imported(source: bytes) -> Iterator[str]:
    """The names at the top of the modules that a source file may import."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # running the file says so, with the line
        return
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else names
            yield from (name.partition(".")[0] for name in names)


def import_file(path: Path, beside: bool = True) -> ModuleType:
    """The module in ``path``, run once: later calls return the same module, until it or what it imports changes.

    It goes into ``sys.modules`` under a name made from its path and its sources, so that files of the same name do not
    collide; the modules beside it go under the same name.

    Args:
        beside: True if it may import the files beside it.

    Raises:
        RecoptError: if it cannot be read, or raises; with the file, the line, and the error.
    """
    try:
        path = path.resolve()
        sources = read_sources(path) if beside else {path: path.read_bytes()}
    except OSError as why:
        raise RecoptError(f"{path} cannot be read: {why.strerror}.") from None
    unique = hashlib.sha256(os.fsencode(path) + digest_of(sources).encode()).hexdigest()[:12]
    name = f"{FROM_FILE}{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{unique}"
    if name in sys.modules:
        return sys.modules[name]
    if not any(isinstance(finder, _Beside) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Beside())
    importlib.invalidate_caches()  # of folders, for files that were written a moment ago
    loader = _Loader(name, str(path), sources, path.parent if beside else None)
    spec = spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=[str(path.parent)] if beside else None
    )
    assert spec is not None  # given a loader, there is one
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses and typing look their module up
    try:
        loader.exec_module(module)
    except BaseException as why:
        for left in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[left]
        if isinstance(why, Exception | SystemExit):
            raise RecoptError(_import_failure(path, why)) from why
        raise
    return module


def digest_of(sources: Sources) -> str:
    """The SHA-256 of a plugin's files, the same wherever its folder is."""
    found, folder = hashlib.sha256(), next(iter(sources)).parent
    for file in sorted(sources):
        found.update(os.fsencode(file.relative_to(folder)) + b"\0" + hashlib.sha256(sources[file]).digest())
    return found.hexdigest()


def sources_of(plugin: type) -> Sources:
    """The files of a plugin's class as they were run; empty if it was not loaded from a plugin file."""
    loader = getattr(sys.modules.get(plugin.__module__), "__loader__", None)
    return loader.sources if isinstance(loader, _Loader) else {}


def one_line(why: BaseException) -> str:
    """The kind of error and its text, in one line without a full stop."""
    text = " ".join(str(why).split()).removesuffix(".")
    return f"{type(why).__name__}: {text}" if text else type(why).__name__


def _import_failure(path: Path, why: BaseException) -> str:
    if isinstance(why, SyntaxError) and why.filename:
        file = path if why.filename == "<unknown>" else why.filename
        return f"{file}, line {why.lineno}: this is not Python ({why.msg})."
    lines = [f.lineno for f in traceback.extract_tb(why.__traceback__) if f.filename == str(path)]
    place = f"{path}, line {lines[-1]}" if lines else f"{path}"
    if isinstance(why, SystemExit):
        return f"{place}: the file exits when it is imported; put what it runs under if __name__ == '__main__'."
    if isinstance(why, ModuleNotFoundError) and why.name:
        lost = why.name.partition(".")[2] if why.name.startswith(FROM_FILE) else why.name
        return f"{place}: there is no module '{lost}': install it, or put {lost}.py beside the plugin."
    if isinstance(why, ImportError) and "relative import" in str(why):
        return f"{place}: a plugin can import what is installed and what is beside it: put the module into its folder."
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


def summary_in(path: Path) -> str:
    """The first line of the docstring of the plugin in ``path``, which is read and not run.

    Raises:
        RecoptError: if it cannot be read, or is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as why:
        raise RecoptError(f"{path} cannot be read: {why.strerror}.") from None
    except (SyntaxError, ValueError) as why:
        raise RecoptError(_import_failure(path, why)) from None
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    # Helpers may be public too: the plugin is called as its file is, or else it is derived from something.
    own = min(classes, key=lambda node: (node.name.lower() != path.stem.replace("_", ""), not node.bases), default=None)
    texts = [own and ast.get_docstring(own), ast.get_docstring(tree)]
    return next((text.partition("\n")[0] for text in texts if text), "")


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
