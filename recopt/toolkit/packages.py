"""Packages that a plugin needs besides recopt's own, and that not everybody has."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..checking.errors import RecoptError


def package(name: str, by: str, install: str) -> Any:
    """The module ``name``.

    Args:
        by: the plugin that needs it.
        install: the requirement that pip installs it by.

    Raises:
        RecoptError: if it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as why:
        if why.name != name.partition(".")[0]:
            raise  # something that it needs itself
        raise RecoptError(f"'{by}' needs the package '{why.name}': pip install '{install}'.") from None
