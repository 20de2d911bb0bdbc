"""Errors in a user's strategy or task: what they are turned into, and how they are told."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import CodeType

from torch import nn

from .errors import RecoptError
from .plugins import shipped_folder, source_of


class RunFailed(RecoptError):
    """An error in a user's strategy or task; the run is marked failed, with its traceback and checkpoint kept."""


def blame(why: BaseException, when: str, plugins: Iterable[type]) -> str:
    """What failed, where, and how, in one sentence without its full stop.

    Where it did not fail in a user's file, though there is one, what that gave may be amiss: then how to find out.

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
    own = [] if lines else sorted(file for file in files if not _shipped(Path(file)))
    remedy = f"; 'recopt check {own[0]}' tries whether it does all that is asked of it" if own else ""
    return f"{when} failed{place} with {type(why).__name__}{': ' if text else ''}{text[:300]}{remedy}"


def _shipped(path: Path) -> bool:
    return path.is_relative_to(Path(__file__).parent) or path.is_relative_to(shipped_folder("strategies"))


def culprit(why: BaseException, plugins: Iterable[type]) -> type | None:
    """The one of the classes ``plugins`` in whose methods, or what these call, an error arose; None if in none's."""
    owner = {code: plugin for plugin in plugins for code in _codes(plugin)}
    frames = [frame.f_code for frame, _ in traceback.walk_tb(why.__traceback__)]
    return next((owner[code] for code in reversed(frames) if code in owner), None)


def _codes(plugin: type) -> set[CodeType]:
    """The code of the methods of ``plugin``, inherited ones too; not what a strategy has of every module."""
    members = [m for c in plugin.__mro__ if c not in nn.Module.__mro__ for m in vars(c).values()]
    plain = (inspect.unwrap(getattr(m, "fget", None) or getattr(m, "func", None) or m) for m in members)
    return {code for m in plain if isinstance(code := getattr(m, "__code__", None), CodeType)}
