"""Tables on the terminal, and the report that ``recopt run`` prints at the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from ..checking.numbers import finite, hypers, short, span
from .options import store_words

if TYPE_CHECKING:
    from ..diagnosis.verdict import Verdict
    from ..running.result import Result
    from ..running.selection.scores import Selection

WIDE = 160
"""Columns of output without a terminal, where ``COLUMNS`` does not say another number."""
_LEAST = 24
"""Columns that a wrapped column keeps at least."""


def console() -> Console:
    """Standard output, wide enough for whole tables in a file or a pipe."""
    found = Console(highlight=False)
    wide = found.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    return found if wide else Console(highlight=False, width=WIDE)


class Folded(Table):
    """A table that is split into several below each other, each with its first column, where it is too wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or its parts: no figure is ever cut."""
        parts = [[0]]
        room = options.max_width - self._width(console, options, 0)
        for number in range(1, len(self.columns)):
            taken = sum(self._width(console, options, other) for other in parts[-1][1:])
            if len(parts[-1]) > 1 and taken + self._width(console, options, number) > room:
                parts.append([0])
            parts[-1].append(number)
        if len(parts) == 1:
            yield from super().__rich_console__(console, options)
        for count, part in enumerate(parts if len(parts) > 1 else []):
            one = Table(box=self.box, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
            one.columns = [replace(self.columns[number], _index=at) for at, number in enumerate(part)]
            one.columns[0].no_wrap = False
            one.rows = self.rows
            if count:
                yield ""
            yield one

    def _width(self, console: Console, options: ConsoleOptions, number: int) -> int:
        column = self.columns[number]
        wide = max(Measurement.get(console, options, cell).maximum for cell in (column.header, *column.cells)) + 2
        if number == 0:
            return min(wide, options.max_width // 2)
        return wide if column.no_wrap else min(wide, _LEAST)


def table(*heads: str, right: tuple[int, ...] = (), wrap: tuple[int, ...] = ()) -> Table:
    """An empty table; columns (from 0) in ``right`` are right-aligned, and only those in ``wrap`` are wrapped."""
    made = Folded(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if number in right else "left"
        made.add_column(head, justify=side, overflow="fold", no_wrap=number not in wrap)
    return made


def print_json(data: Any) -> None:
    """Print ``data`` as JSON, numbers that are not finite as null."""
    click.echo(json.dumps(finite(data, lambda number: None), indent=2, ensure_ascii=False, default=str))


def result_facts(result: Result) -> dict[str, Any]:
    """A run's result for ``--json``."""
    from ..running.result import summary

    return {
        "run": result.run_id, "folder": result.folder, "task": result.spec.task.name, "stack": result.stack,
        "seed": result.spec.seed, "outcome": result.outcome, "before": result.before, "after": result.after,
        "hyperparameters": result.hyperparameters, "metrics": summary(result),
        "verdicts": [asdict(one) for one in result.verdicts],
    }  # fmt: skip


def resume_words(run: str, store: str | None) -> str:
    """The command that resumes a run."""
    return f"recopt run --resume {run}" + store_words(store)


def report(result: Result, store: str | None) -> None:
    """Print the result of a run, its folder and its record."""
    out = console()
    last = result.engine.state.step
    steps = f"{result.spec.steps:,}"
    how = f"{result.outcome}, {steps} steps"
    if result.status == "KILLED":
        how = f"interrupted at step {last:,} of {steps}"
    elif last < result.spec.steps:
        why = "the score got no better" if result.chosen and result.chosen.stopped else "what it measured ends it"
        how = f"{result.outcome}: stopped early at step {last:,} of {steps}, since {why}"
    out.print(f"{Path(result.spec.task.name).name}  {result.stack}", style="bold", markup=False)
    lost = result.outcome in ("diverged", "frozen")
    out.print(f"{how}, {span(result.budget.total.seconds)}\n", style="bold red" if lost else None)
    tables = [_figures(result), _levels(result)]
    tables += [_chosen(result.chosen)] if result.chosen and result.chosen.report else []
    for one in tables:
        out.print(one)
        out.print()
    if result.chosen and result.spec.choose:
        out.print(f"{_choice(result.chosen, result.spec.choose.descendants)}\n", markup=False, soft_wrap=True)
    for line in _where(result, store):
        out.print(line, markup=False, soft_wrap=True)
    tell(result.verdicts)


def tell(verdicts: Sequence[Verdict]) -> None:
    """Print verdicts on a run: where each began, by what it is seen, and what to change."""
    out = console()
    for one in verdicts:
        out.print(f"\nLevel {one.level} ({one.name}), from step {one.step:,}", style="bold red", markup=False)
        out.print(f"{one.text[0].upper()}{one.text[1:]}.", markup=False, soft_wrap=True)
        out.print(f"To change: {one.remedy}", markup=False, soft_wrap=True)


def _figures(result: Result) -> Table:
    found = table("", "before", "after", right=(1, 2))
    losses = result.losses
    if len(losses):
        found.add_row("training loss", short(float(losses[0])), _after(float(losses[-1]), result.diverged))
    for key, after in result.after.items():
        found.add_row(f"test {key}", short(result.before.get(key, math.nan)), short(after))
    return found


def _after(loss: float, diverged: bool) -> str:
    return f"{short(loss)} (diverged)" if diverged and math.isfinite(loss) else short(loss)


def _levels(result: Result) -> Table:
    """Hyperparameters and evaluations per level."""
    from ..diagnosis.view import spent_columns
    from ..levels.words import target
    from ..running.result import level_summary

    levels = level_summary(result.engine)
    columns = spent_columns(levels.values())
    made = table("level", "strategy", "moves", "found", *columns.values(), "seconds",
                 right=tuple(range(4, 5 + len(columns))), wrap=(3,))  # fmt: skip
    for level, (number, spent) in zip(result.spec.levels, levels.items(), strict=True):
        counts = [f"{spent[key]:,.0f}" for key in columns]
        made.add_row(str(number), escape(level.by), escape(target(level)), _values(result, level.by), *counts,
                     f"{spent['seconds']:.1f}")  # fmt: skip
    return made


def _chosen(chosen: Selection) -> Table:
    """The scores on the report's tasks, which had no part in choosing."""
    made = table("values", "of step", "score", "95 % interval", "diverged", right=(1, 2, 3, 4))
    for key, score in chosen.report.items():
        interval = f"{short(score.low)}–{short(score.high)}"
        made.add_row(key, f"{score.step:,}", short(score.mean), interval, f"{score.diverged} of {score.tasks}")
    return made


def _choice(chosen: Selection, descendants: int) -> str:
    cost = f"Choosing and reporting took {chosen.evaluations:,} more evaluations, {span(chosen.seconds)}."
    if chosen.score is None:
        why = f"no candidate had {descendants:,} usable scores after its own" if descendants else "no score was usable"
        return f"Nothing was chosen, since {why}: the last values are exported. {cost}"
    others = " (reported: on as many others)" if chosen.report else ""
    return f"Chosen: the values of step {chosen.step:,}, by {chosen.what}{others}: {chosen.score.words}. {cost}"


def _values(result: Result, slot: str) -> str:
    """The figures that a rule tells of its state, its hyperparameters, and the number of other meta-parameters."""
    from ..toolkit.discrete import Choice

    start, strategy = f"{slot}.", result.engine.graph.slots[slot]
    values = {k.removeprefix(start): v for k, v in result.hyperparameters.items() if k.startswith(start)}
    sizes, domains = {name: p.numel() for name, p in strategy.named_parameters()}, strategy._domains
    told = {key: value for key, value in values.items() if key not in sizes}
    words = {key: one.words for key, one in domains.items() if key in values and isinstance(one, Choice)}
    many = [f"{key} {short(values[key])} (middle of {sizes[key]:,})" for key in values if sizes.get(key, 1) > 1]
    rest = sum(size for key, size in sizes.items() if key not in values)
    chosen = [f"{key} {known[int(values[key])]}" for key, known in words.items()]
    single = {key: v for key, v in values.items() if sizes.get(key) == 1 and key not in words}
    others = f"{rest:,} meta-parameters" if rest else ""
    return "  ".join(filter(None, [hypers(told), *many, hypers(single), *chosen, others]))


def _where(result: Result, store: str | None) -> list[str]:
    if result.run_id is None or result.folder is None:
        return ["Nothing was recorded (--no-track)."]
    folder = result.folder
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    browse = "recopt ui" + store_words(store)
    lines = [f"run     {result.run_id}", f"folder  {folder}", f"report  {folder / 'report.html'}", f"browse  {browse}"]
    if result.status == "KILLED":
        lines.append(f"go on   {resume_words(result.run_id, store)}")
    return lines
