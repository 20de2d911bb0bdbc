"""Digests of what is saved: damage is refused before anything is read into a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any


def digest(parts: Iterable[tuple[str, Any]]) -> str:
    """The SHA-256 of named bytes (or one-dimensional arrays of them), whatever their order, as hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in sorted(parts, key=lambda part: part[0]):
        found.update(f"{len(name.encode())} {name} {memoryview(value).nbytes} ".encode())
        found.update(value)
    return found.hexdigest()
