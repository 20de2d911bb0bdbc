"""Registries: transforms and estimators by the names that levels ask for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..checking.errors import RecoptError, unknown

T = TypeVar("T")


class Registry:
    """Things by name.

    Args:
        what: one of them, in messages.
        home: the package that has a module for each shipped one; they register themselves when they are imported.
    """

    def __init__(self, what: str, home: str = "", shipped: Sequence[str] = ()) -> None:
        self.what, self.home, self.shipped = what, home, tuple(shipped)
        self._found: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Register what is decorated under ``name``.

        Raises:
            RecoptError: if the name is taken.
        """

        def add(thing: T) -> T:
            if name in self._found:
                article = "an" if self.what[0] in "aeiou" else "a"
                raise RecoptError(f"There is {article} {self.what} '{name}' already: give yours another name.")
            self._found[name] = thing() if isinstance(thing, type) else thing
            return thing

        return add

    def __getitem__(self, name: str) -> Any:
        """The one called ``name``. Raises RecoptError if there is none."""
        if name in self.shipped and name not in self._found:
            importlib.import_module(f"{self.home}.{name}")
        if name not in self._found:
            raise unknown(self.what, name, self.names())
        return self._found[name]

    def __delitem__(self, name: str) -> None:
        """Forget the one called ``name``."""
        del self._found[name]

    def names(self) -> list[str]:
        """All names, the shipped ones first."""
        return list(dict.fromkeys([*self.shipped, *self._found]))


TRANSFORMS = Registry("transform")
"""Transforms of signals: see :mod:`recopt.levels.transforms`."""
_SHIPPED = ("unroll", "online", "forward", "implicit", "reptile", "es", "pes", "nres", "value")
ESTIMATORS = Registry("estimator", "recopt.estimators", _SHIPPED)
"""Ways to obtain a level's signal: see :mod:`recopt.levels.estimator`."""
