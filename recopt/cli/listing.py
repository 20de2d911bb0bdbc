"""``recopt runs``: recorded runs in a table, filtered, sorted, and watched while they go on."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.markup import escape

from ..checking.errors import RecoptError, unknown
from ..checking.numbers import short
from .options import JSON, STORE
from .tables import console, print_json, table

if TYPE_CHECKING:
    from rich.table import Table

    from ..tracking.mlflow.runs import RunRow

_EVERY = 2.0
"""Seconds between two looks at the store."""
_STATUSES = {"running": "cyan", "finished": "green", "diverged": "red", "frozen": "red", "failed": "red",
             "interrupted": "yellow", "scheduled": "cyan"}  # fmt: skip
"""How a run ended, and the colour of that."""
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN = ("run", "started", "name", "task", "stack", "seed", "status", "steps", "loss", "test", "seconds")
_ALL: dict[str, Any] = {"status": (), "task": "", "stack": "", "name": "", "since": None, "condition": None}
"""What asks for every run."""
_KEYS = {"loss": "final_loss", "run": "id"}
"""Columns of the table that are called otherwise in a record."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The runs that a listing is asked for, and their order."""

    status: tuple[str, ...]
    task: str
    stack: str
    name: str
    since: datetime | None
    condition: str | None
    sort: str | None
    reverse: bool
    limit: int

    def fits(self, row: RunRow) -> bool:
        """True if ``row`` is wanted, whatever MLflow's ``condition`` says."""
        texts = ((self.task, _task(row)), (self.stack, _stack(row)), (self.name, row.name))
        return (
            (not self.status or status_of(row) in self.status)
            and all(part.lower() in text.lower() for part, text in texts)
            and (self.since is None or row.started >= self.since)
        )

    def of(self, store: str | None) -> list[RunRow]:
        """The wanted runs of a store in their order, all of them, or at least one more than the limit."""
        from ..tracking.mlflow.runs import list_runs

        every = self.status or self.task or self.stack or self.name or self.since or self.sort or self.reverse
        found = list_runs(store, None if every else self.limit + 1, where=self.condition)
        return _sorted([row for row in found if self.fits(row)], self.sort, self.reverse)


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """``2h`` or ``2026-11-27`` as a time."""
    if text is None:
        return None
    if found := re.fullmatch(r"(\d{1,6})\s*(min|h|d|w)", text.strip()):
        return datetime.now().astimezone() - timedelta(**{_UNITS[found[2]]: int(found[1])})
    with suppress(ValueError):
        return datetime.fromisoformat(text.strip()).astimezone()
    raise click.BadParameter(f"'{text}' should read like 30min, 2h, 3d, 2026-11-27 or '2026-11-27 14:30'.")


@click.command()
@click.option("--status", multiple=True, type=click.Choice(list(_STATUSES)[:-1]),
              help="Only runs that ended so, or still go on; may be repeated.")  # fmt: skip
@click.option("--task", default="", metavar="TEXT", help="Only runs with this in the name of their task.")
@click.option("--stack", default="", metavar="TEXT", help="Only runs with this in their stack.")
@click.option("--name", default="", metavar="TEXT", help="Only runs with this in their name.")
@click.option("--since", metavar="WHEN", callback=_moment, help="Only runs started since: 30min, 2h, 3d, 2026-11-27.")
@click.option("--filter", "condition", metavar="CONDITION",
              help="Only runs that MLflow finds: \"metrics.test_accuracy > 0.9 and params.seed = '1'\".")  # fmt: skip
@click.option("--sort", metavar="COLUMN", help="Order by a column, a metric or a parameter, the least first.")
@click.option("--reverse", "-r", is_flag=True, help="The other way round: the greatest first, or the oldest.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Number of runs to list.")
@click.option("--watch", "-w", is_flag=True, help=f"Look again every {_EVERY:.0f} seconds, until Ctrl-C.")
@STORE
@JSON
def runs(store: str | None, watch: bool, as_json: bool, **what: object) -> None:
    """List the recorded runs, latest first."""
    wanted = Wanted(**what)  # type: ignore[arg-type]
    if watch:
        if as_json or not console().is_terminal:
            raise RecoptError("--watch is for a terminal, and prints no JSON: leave one of them out.")
        return _watch(lambda most: _listed(wanted.of(store)[: min(most, wanted.limit)], wanted.sort))
    found = wanted.of(store)
    shown = found[: wanted.limit]
    if as_json:
        return print_json([{**dataclasses.asdict(row), "status": status_of(row)} for row in shown])
    if not shown and wanted == dataclasses.replace(wanted, **_ALL):
        raise RecoptError("There are no runs yet: start one with 'recopt run'.")
    if not shown:
        click.echo("There are no such runs.")
        return
    console().print(_listed(shown, wanted.sort))
    more = f"There are more: -n {2 * wanted.limit} shows them. " if len(found) > len(shown) else ""
    console().print(f"\n{more}recopt report RUN shows one as a page, or several beside each other.", style="dim")


def _watch(look: Callable[[int], Table]) -> None:
    """Show what ``look`` gives for so many lines, again and again, until Ctrl-C."""
    from rich.console import Group
    from rich.live import Live

    screen = console()
    with suppress(KeyboardInterrupt), Live(console=screen, auto_refresh=False) as live:
        while True:
            live.update(Group(look(screen.height - 5), "\n[dim]Ctrl-C ends it.[/]"), refresh=True)
            time.sleep(_EVERY)


def _sorted(rows: list[RunRow], column: str | None, reverse: bool) -> list[RunRow]:
    """``rows``, latest first as they come, in the order of ``column``; those without a value last."""
    if column is None:
        return rows[::-1] if reverse else rows
    values = [(value_of(row, column), row) for row in rows]
    there = [(value, row) for value, row in values if value is not None]
    if rows and not there:
        known = {key for row in rows for key in (*row.metrics, *row.params)} | set(_SHOWN)
        raise unknown("column", column, known - {column}, "of --sort")
    mixed = any(isinstance(value, str) for value, _ in there)
    there.sort(key=lambda pair: str(pair[0]) if mixed else pair[0], reverse=reverse)
    return [row for _, row in there] + [row for value, row in values if value is None]


def value_of(row: RunRow, column: str) -> float | str | None:
    """The value of a run in a column of the listing, a metric, or a parameter; None if it has none."""
    name = _KEYS.get(column, column)
    own = {"id": row.id, "name": row.name, "task": _task(row), "stack": _stack(row), "seed": row.params.get("seed"),
           "status": status_of(row), "started": row.started.timestamp(), "seconds": _seconds(row),
           "test": (_test(row) or ("", None))[1], "steps": row.step or None}  # fmt: skip
    if name in own:
        return own[name]
    value = row.metrics.get(name, row.params.get(name))
    with suppress(TypeError, ValueError):
        value = float(value)  # type: ignore[arg-type]
    return None if isinstance(value, float) and math.isnan(value) else value


def status_of(row: RunRow) -> str:
    """The status of a run in one word; ``diverged`` or ``frozen`` where it did all its steps in vain."""
    lost = [word for word in ("frozen", "diverged") if row.metrics.get(word)] if row.status == "FAILED" else []
    return (lost or [{"KILLED": "interrupted"}.get(row.status, row.status.lower())])[0]


def _listed(rows: list[RunRow], sort: str | None) -> Table:
    """The table of ``rows``, with the column that they are sorted by."""
    more = (
        []
        if sort is None or sort in _SHOWN or any(sort == f"test_{(_test(row) or [''])[0]}" for row in rows)
        else [sort]
    )
    heads = [*_SHOWN, *more]
    made = table(*heads, right=(5, 7, 8, 9, 10, *range(len(_SHOWN), len(heads))), wrap=(2, 3, 4))
    for row in rows:
        status, test, seconds = status_of(row), _test(row), _seconds(row)
        loss = row.metrics.get("final_loss", row.metrics.get("loss"))  # a run that is not over has no summary yet
        steps = f"{row.step:,}" if row.step or status == "running" else ""
        steps += f" of {int(row.params['steps']):,}" if status == "running" and "steps" in row.params else ""
        sorted_by = [value_of(row, key) for key in more]
        made.add_row(
            row.id[:8], f"{row.started:%m-%d %H:%M}", escape(_given(row)), escape(_task(row)),
            escape(_stack(row)), row.params.get("seed", ""), f"[{_STATUSES[status]}]{status}[/]",
            steps, "" if loss is None else short(loss), f"{test[0]} {short(test[1])}" if test else "",
            "" if seconds is None else f"{seconds:,.1f}",
            *("" if x is None else short(x) if isinstance(x, float) else escape(x) for x in sorted_by),
        )  # fmt: skip
    return made


def _task(row: RunRow) -> str:
    name, own = Path(row.params.get("task", "")).name, "task."
    settings = [f"{key.removeprefix(own)}={value}" for key, value in row.params.items() if key.startswith(own)]
    return f"{name}({', '.join(settings)})" if settings else name


def _stack(row: RunRow) -> str:
    return row.tags.get("recopt.stack", row.params.get("stack", row.name))


def _given(row: RunRow) -> str:
    """The name of a run, unless it is only its task and stack."""
    return "" if row.name == f"{Path(row.params.get('task', '')).stem} {_stack(row)}" else row.name


def _test(row: RunRow) -> tuple[str, float] | None:
    """The metric on the test split that the listing shows, a loss only where there is no other."""
    tests = {key.removeprefix("test_"): value for key, value in row.metrics.items() if key.startswith("test_")}
    return next(((key, value) for key, value in tests.items() if key != "loss"), next(iter(tests.items()), None))


def _seconds(row: RunRow) -> float | None:
    """The time that a run took, or has taken so far."""
    if row.seconds is None and status_of(row) == "running":
        return (datetime.now().astimezone() - row.started).total_seconds()
    return row.seconds
