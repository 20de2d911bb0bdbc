"""Errors for the user: one sentence that names the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecoptError(ValueError):
    """A mistake that the user can correct. The message names the place and the remedy; the CLI exits with 2."""


class StateError(RecoptError, RuntimeError):
    """A call that is right by itself, at a moment or in a state in which it cannot be answered."""


class Damaged(RecoptError):
    """A saved file is not as it was written."""


class DataMissing(RecoptError):
    """Data are not on this machine and cannot be fetched."""


class Notice(UserWarning):
    """A fact that the user should know of, in one sentence; the command line shows it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` if a known name is close, else `` Known: …``, ready to append."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> RecoptError:
    """The error for an unknown name, e.g. ``Unknown strategy 'adm' in 'adm/sgd'.``"""
    place = f" {where}" if where else ""
    return RecoptError(f"Unknown {kind} '{name}'{place}.{did_you_mean(name, known)}")
