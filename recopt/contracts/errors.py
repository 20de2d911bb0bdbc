"""What goes wrong by a user's hand: one sentence that names the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecoptError(Exception):
    """A mistake the user can mend. The message names the place and the remedy; the CLI exits with 2."""


class DataMissing(RecoptError):
    """Data that are neither on this machine nor could be fetched."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` if a known name is close, else `` Known: …``, ready to append."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> RecoptError:
    """The error for a name that is not known, e.g. ``Unknown strategy 'adm' in 'adm/sgd'.``"""
    place = f" {where}" if where else ""
    return RecoptError(f"Unknown {kind} '{name}'{place}.{did_you_mean(name, known)}")
