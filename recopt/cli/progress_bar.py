"""The progress of comparisons and sweeps with the time that is left, and the cost of a comparison before it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..checking.numbers import span

if TYPE_CHECKING:
    from ..comparison import CompareSpec
    from ..comparison.training import Progress

_KEPT = 8
"""The number of finished lines that stay in the display."""
_NARROW = 90
"""Columns below which there is no bar beside the figures."""
_LINE_EVERY = 30.0
"""Seconds between two lines without a terminal."""


def cost_words(specs: Sequence[CompareSpec]) -> str:
    """The work of comparisons in a sentence: runs and steps to train, to tune and to compare."""
    trained = [(one.run or {}).get("steps", 1000) * one.repeat for spec in specs for one in spec.stacks if one.run]
    tuned = [(len(spec.baselines) * spec.tune * spec.tune_tasks, spec.steps) for spec in specs]
    compared = [(_competitors(spec) * spec.seeds, spec.steps) for spec in specs]
    parts = [f"training {sum(trained):,} steps"] if trained else []
    parts += [
        f"{name} {sum(runs for runs, _ in found):,} runs, {sum(runs * steps for runs, steps in found):,} steps"
        for name, found in (("tuning", tuned), ("comparing", compared))
        if any(runs for runs, _ in found)
    ]
    return f"To do: {'; '.join(parts)}. --seeds, --steps, --tune and --tune-tasks make it less."


def _competitors(spec: CompareSpec) -> int:
    return sum(one.repeat for one in spec.stacks) + len(spec.baselines)


class Outlook:
    """The time that is left of work in equal parts, from how long the parts so far took."""

    def __init__(self) -> None:
        self._begun, self._first, self.words = time.monotonic(), -1, ""

    def see(self, what: str, done: int, total: int) -> None:
        """Note that of the work ``what`` so much is done."""
        self._first = done if self._first < 0 else self._first  # a sweep that goes on
        if done > self._first:
            left = (time.monotonic() - self._begun) / (done - self._first) * (total - done)
            self.words = f"about {span(left)} left"


class ComparisonOutlook(Outlook):
    """The time that is left, from how long the runs so far took: those of stacks and those of baselines apart."""

    def __init__(self, spec: CompareSpec) -> None:
        super().__init__()
        baselines = len(spec.baselines)
        self._tasks, self._at, self._last = spec.tune_tasks, dict[str, int](), time.monotonic()
        self._total = {"stacks": (_competitors(spec) - baselines) * spec.seeds,
                       "baselines": baselines * (spec.seeds + spec.tune * spec.tune_tasks)}  # fmt: skip
        self._done, self._spent = dict.fromkeys(self._total, 0), dict.fromkeys(self._total, 0.0)

    def see(self, what: str, done: int, total: int) -> None:
        """Note that of the work ``what`` so much is done."""
        now = time.monotonic()
        if not what.startswith("training "):
            tuning = what.startswith("tuning ")
            kind = "baselines" if tuning or what.startswith("running tuned ") else "stacks"
            self._done[kind] += (done - self._at.get(what, 0)) * (self._tasks if tuning else 1)
            self._spent[kind] += now - self._last
        self._at[what], self._last, self.words = done, now, self._left()

    def _left(self) -> str:
        rates = {kind: self._spent[kind] / done for kind, done in self._done.items() if done}
        if not rates:
            return ""
        guess = max(rates.values())  # baselines, which come last, are run side by side, and so faster
        left = sum((total - self._done[kind]) * rates.get(kind, guess) for kind, total in self._total.items())
        known = all(kind in rates or not total for kind, total in self._total.items())
        return f"{'about' if known else 'at most'} {span(left)} left"


@contextmanager
def progress_bar(outlook: Outlook, first: Iterable[str] = ()) -> Iterator[Progress]:
    """The progress display, below what is left of ``first``; without a terminal, a line now and then."""
    first = iter(first)
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(outlook, first)
        return
    columns: tuple[progress.ProgressColumn, ...]
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(24), progress.MofNCompleteColumn(),
               progress.TimeElapsedColumn(), progress.TextColumn("{task.fields[left]}", style="dim"))  # fmt: skip
    tasks = dict[str, progress.TaskID]()
    if console.width < _NARROW:
        columns = (columns[0], *columns[2:])
    with progress.Progress(*columns, console=console, transient=True) as bar:

        def show(what: str, done: int, total: int) -> None:
            for line in first:
                console.print(line, highlight=False, soft_wrap=True)
            if what not in tasks:
                over = [task.id for task in bar.tasks if task.finished]
                for task in bar.tasks:
                    bar.update(task.id, left="", visible=task.id not in over[:-_KEPT])  # more would hide the current
                tasks[what] = bar.add_task(what, total=total, left="")
            outlook.see(what, done, total)
            bar.update(tasks[what], completed=done, left=outlook.words)

        yield show


def _lines(outlook: Outlook, first: Iterator[str]) -> Callable[[str, int, int], Any]:
    next_at = [time.monotonic() + _LINE_EVERY]

    def show(what: str, done: int, total: int) -> None:
        for line in first:
            print(line, file=sys.stderr, flush=True)
        outlook.see(what, done, total)
        if time.monotonic() >= next_at[0]:
            next_at[0] = time.monotonic() + _LINE_EVERY
            print(f"{what}  {done:,} of {total:,}  {outlook.words}".rstrip(), file=sys.stderr, flush=True)

    return show
