"""The data folder, the settings that govern it, and the search for a file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..checking.errors import RecoptError

DEBIAN = Path("/usr/share/datasets")
"""The folder of Debian's packages of data sets."""


def data_folder() -> Path:
    """The data folder: ``RECOPT_DATA``, else ``$XDG_CACHE_HOME/recopt/data``, else ``~/.cache/recopt/data``."""
    named = os.environ.get("RECOPT_DATA")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    # The standard says that a relative path there is to be ignored.
    base = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "recopt" / "data"


def offline() -> bool:
    """True if ``RECOPT_OFFLINE`` forbids fetching. Raises RecoptError if it is neither a yes nor a no."""
    value = os.environ.get("RECOPT_OFFLINE", "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise RecoptError(f"RECOPT_OFFLINE must be 1 or 0, not '{value}'.")


def find(places: Iterable[Path]) -> Path | None:
    """The first of ``places`` that is a file."""
    return next((place for place in places if place.is_file()), None)
