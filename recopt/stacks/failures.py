"""Errors in a user's strategy or task, and the messages for them."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import CodeType

from torch import nn

from ..checking.errors import RecoptError
from .places import shipped_folder
from .plugin_file import source_of


class RunFailed(RecoptError):
    """An error in a user's strategy or task; the run is marked failed, with its traceback and checkpoint kept."""


def failure_message(why: BaseException, when: str, plugins: Iterable[type]) -> str:
    """The message for an error: the cause and its place in one sentence, without its full stop.

    If the user's own plugins take part, no shipped one is named, since its input may be wrong. The sentence then
    names the command that checks the user's.

    Args:
        when: the beginning of the sentence, such as ``Step 3``.
        plugins: the classes that take part; the place is searched in their files.
    """
    given = list(plugins)
    own = {str(_file(plugin)) for plugin in given if _is_own(plugin)} - {"None"}
    files = own if any(map(_is_own, given)) else {str(_file(plugin)) for plugin in given}
    lines = [f for f in traceback.extract_tb(why.__traceback__) if f.filename in files]
    place = f" in {lines[-1].filename}, line {lines[-1].lineno}," if lines else ""
    text = " ".join(str(why).split()).removesuffix(".")
    check = f"; 'recopt check {min(own)}' tries whether it does all that is asked of it" if own and not lines else ""
    return f"{when} failed{place} with {type(why).__name__}{': ' if text else ''}{text[:300]}{check}"


def culprit(why: BaseException, plugins: Iterable[type]) -> type | None:
    """The class of ``plugins`` in whose methods, or in functions that these call, an error arose.

    None if there is no such class, or if it is a shipped one while the user's own take part.
    """
    given = list(plugins)
    owner = {code: plugin for plugin in given for code in _codes(plugin)}
    frames = [frame.f_code for frame, _ in traceback.walk_tb(why.__traceback__)]
    found = next((owner[code] for code in reversed(frames) if code in owner), None)
    return None if found and not _is_own(found) and any(map(_is_own, given)) else found


def _file(plugin: type) -> Path | None:
    try:
        return source_of(plugin)[0]
    except RecoptError:  # defined in an interactive session
        return None


def _is_own(plugin: type) -> bool:
    file = _file(plugin)
    shipped = (Path(__file__).parents[1], shipped_folder("strategies"))
    return file is None or not any(file.is_relative_to(folder) for folder in shipped)


def _codes(plugin: type) -> set[CodeType]:
    """The code of the methods of ``plugin``, inherited ones too, without those of ``nn.Module``."""
    members = [m for c in plugin.__mro__ if c not in nn.Module.__mro__ for m in vars(c).values()]
    plain = (inspect.unwrap(getattr(m, "fget", None) or getattr(m, "func", None) or m) for m in members)
    return {code for m in plain if isinstance(code := getattr(m, "__code__", None), CodeType)}
