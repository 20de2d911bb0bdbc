"""Plugins' classes in pickles of the user's own: their files are imported again where a pickle is opened."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .places import shipped_folder
from .plugin_file import FROM_FILE, import_file


class Imported:
    """The files of plugins, imported: goes into a pickle before what is made of their classes."""

    def __init__(self, files: Iterable[str]) -> None:
        self.files = sorted(files)
        for file in map(Path, self.files):
            import_file(file, beside=file.parent != shipped_folder("strategies").resolve())

    @classmethod
    def of(cls, classes: Iterable[type]) -> Imported:
        """The files that ``classes`` and their bases come from, where these are plugins."""
        modules = {base.__module__.partition(".")[0] for one in classes for base in one.__mro__}
        return cls(str(sys.modules[module].__file__) for module in modules if module.startswith(FROM_FILE))

    def __reduce__(self) -> tuple[Any, ...]:
        return Imported, (self.files,)
