"""The live display of a run: progress, loss, and the hyperparameters of every level."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..checking.numbers import hypers, short, span
from .result import found_hyperparameters

if TYPE_CHECKING:
    from .session import Session

EVERY = 0.2
LINE_EVERY = 30.0
MEMORY = 20
"""The number of refreshes over which the rate is averaged."""


class Live:
    """The live display at the bottom of the terminal; in a notebook, one line that is rewritten.

    Args:
        lines: whether elsewhere a line is printed now and then.
    """

    def __init__(self, lines: bool) -> None:
        console = Console(stderr=True)
        terminal, self._notebook = console.is_terminal, console.is_jupyter
        shown = terminal or self._notebook
        self._every = EVERY if shown else LINE_EVERY
        self._screen = Screen(console=console, auto_refresh=False, transient=True) if terminal else None
        self._next = 0.0 if shown else time.monotonic() + LINE_EVERY if lines else math.inf
        self._marks: list[tuple[float, int]] = []
        self._far, self._written = 0, 0

    def __enter__(self) -> Live:
        if self._screen:
            self._screen.start()
            self._screen.update(Text("Setting up …", style="dim"), refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the display."""
        if self._screen:
            self._screen.stop()
            self._screen = None
        self._rewrite("")

    def begin(self, session: Session) -> None:
        """Start the clock."""
        self._far = session.first_step
        self._marks = [(time.monotonic(), self._far)]

    def show(self, session: Session) -> None:
        """Refresh the display, at most once every ``EVERY`` seconds, or print a line every ``LINE_EVERY``."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        self._far = max(self._far, session.step)  # a trial can go back
        self._marks = [*self._marks[-MEMORY:], (now, self._far)]
        words = self._words(session)
        if self._notebook:
            self._rewrite("  ".join(filter(None, words)))
        elif self._screen is None:
            print("  ".join(filter(None, words)), file=sys.stderr, flush=True)
        else:
            line = Table.grid(padding=(0, 2))
            line.add_row(words[0], ProgressBar(total=session.spec.steps, completed=self._far, width=24), *words[1:])
            self._screen.update(Group(line, *self._levels(session)), refresh=True)

    def _rewrite(self, text: str) -> None:
        """Put ``text`` in the place of what a notebook shows; with blanks, since not all know how to clear a line."""
        if text or self._written:
            print(end=f"\r{text.ljust(self._written)}{'' if text else chr(13)}", flush=True)
            self._written = len(text)

    def _words(self, session: Session) -> list[str]:
        """The steps that are done, their speed, the time that is left, and the run's figures."""
        steps = session.spec.steps
        (t0, n0), (t1, n1) = self._marks[0], self._marks[-1]
        speed = ["", ""]
        if n1 - n0 > 1:  # the first step also starts everything up
            rate = (n1 - n0) / max(t1 - t0, 1e-9)
            pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            speed = [f"{pace} a second", f"{span((steps - n1) / rate)} left"]
        trial = f", a trial at {session.step:,}" if session.step < n1 else ""
        return [f"step {n1:,} of {steps:,}{trial}", *speed, _figures(session)]

    def _levels(self, session: Session) -> list[RenderableType]:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        found = found_hyperparameters(session.engine)
        for number, level in enumerate(session.spec.levels, 1):
            table.add_row(f"{number}  {level.by}", Text(hypers(found[number]), style="cyan"))
        return [table]


def _figures(session: Session) -> str:
    """The training loss (median of the last ten), the latest score, and the latest metric on held-out data."""
    trial = [float(values["loss"]) for level, _, values in session.engine.state.log if level == 0 and "loss" in values]
    losses = [*session.trace.series(0, "loss")[1][-10:], *trial]  # those of an open trial are not recorded yet
    text = f"loss {short(float(np.median(losses[-10:])))}" if losses else ""
    if (selector := session.selector) and selector.latest:
        best = f" (best {short(selector.best.mean)} at {selector.best.step:,})" if selector.best else ""
        text += f"  score {short(selector.latest.mean)}{best}"
    metric = session.plan.task.metric
    if metric is None:
        return text
    values = session.trace.series(0, f"valid_{metric}")[1]
    return f"{text}  {metric} {short(float(values[-1]))}" if len(values) else text
