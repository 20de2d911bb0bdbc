"""Errors for the user: one sentence that names the place and the remedy."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


_LISTED = 120
"""The most characters of a list of names in a message."""


def shown(value: object, most: int = 60) -> str:
    """A user's value for a message: text as it is, anything else as Python writes it; in one line and not long."""
    text = value if isinstance(value, str) else _written(value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}…"


def quoted(value: object) -> str:
    """The same in a sentence: text within quotes."""
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def _written(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 10_000:  # which Python does not write
        return f"a number of {value.bit_length():,} bits"
    return reprlib.repr(value) if isinstance(value, list | tuple | dict | set) else repr(value)


_ELSEWHERE = {"learning_rate": "lr", "rate": "lr", "step_size": "lr", "epsilon": "eps", "l2": "weight_decay",
              "acc": "accuracy", "epochs": "steps", "iterations": "steps"}  # fmt: skip
"""Names that other libraries have for things, with ours."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` if a known name is close, else `` Known: …``, ready to append."""
    names = sorted(known)
    elsewhere = _ELSEWHERE.get(name)
    close = [elsewhere] if elsewhere in names else difflib.get_close_matches(name[:100], names, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    most = next((n for n in range(len(names)) if len(", ".join(names[: n + 1])) > _LISTED), len(names))
    return f" Known: {', '.join([*names[:most], *['…'][: len(names) - most]])}." if names else ""


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> RecoptError:
    """The error for an unknown name, e.g. ``Unknown strategy 'adm' in 'adm/sgd'.``"""
    place = f" {where}" if where else ""
    return RecoptError(f"Unknown {kind} '{shown(name)}'{place}.{did_you_mean(name, known)}")


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn an OSError into the refusal of ``place``, a file or folder that cannot be written."""
    try:
        yield
    except OSError as why:
        raise RecoptError(f"{place} cannot be written ({why.strerror}): choose another place.") from None
