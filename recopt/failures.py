"""Errors in a user's strategy or task: what they are turned into, and how they are told."""

from __future__ import annotations

import traceback
from collections.abc import Iterable

from .errors import RecoptError
from .plugins import source_of


class RunFailed(RecoptError):
    """An error in a user's strategy or task; the run is marked failed, with its traceback and checkpoint kept."""


def blame(why: Exception, when: str, plugins: Iterable[type]) -> str:
    """What failed, where, and how, in one sentence without its full stop.

    Args:
        when: the beginning of the sentence, such as ``Step 3``.
        plugins: the user's classes, in whose files the place is looked for.
    """
    files = set()
    for plugin in plugins:
        try:
            files.add(str(source_of(plugin)[0]))
        except RecoptError:
            continue
    lines = [f for f in traceback.extract_tb(why.__traceback__) if f.filename in files]
    place = f" in {lines[-1].filename}, line {lines[-1].lineno}," if lines else ""
    text = " ".join(str(why).split()).removesuffix(".")
    return f"{when} failed{place} with {type(why).__name__}{': ' if text else ''}{text[:300]}"
