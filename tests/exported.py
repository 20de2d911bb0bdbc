"""A rule that was trained a little, for tests of exports, and how its refusals are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import recopt
from recopt import RecoptError
from recopt.running.export import write_export

QUICK = ("level2.every=5", "level2.episode=20")


def trained_lstm(folder: Path) -> Path:
    """The export of a short training of a small LSTM, in ``folder``."""
    result = recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=60, track=False, settings=QUICK)
    write_export(result.engine, result.spec, folder, result.trace)
    return folder


def refusal(ask: Callable[[], object]) -> str:
    """The one sentence that ``ask`` is refused with."""
    with pytest.raises(RecoptError) as caught:
        ask()
    text = str(caught.value)
    assert "\n" not in text and text[-1] in ".?"
    return text
