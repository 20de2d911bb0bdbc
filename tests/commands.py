"""Command lines in an empty folder, and what they are given there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Recopt = Callable[..., Done]
SHORT = ("--steps", "6", "--no-track")


def call(*args: str) -> int:
    """What the command line ends with, in the folder that is current."""
    from recopt.cli import main

    try:
        main(args)
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("the command line did not end")


def write(text: str, name: str = "mine.py") -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


RULE = """
from recopt import Strategy, positive
class Mine(Strategy):
    '''Plain steps.'''
    rate = positive(0.01)
    def forward(self, point, trials, state, rng):
        {body}
        return [-self.rate * g for g in trials[0].grads], state
"""
STEPS = RULE.format(body="")
