"""Tables on the terminal, and the report that ``recopt run`` prints at the end."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..running.result import Result
    from ..running.selection.scores import Selection

WIDE = 160
"""Columns of output without a terminal."""
NARROW = 120
"""Columns below which hyperparameters get their own table."""


def console() -> Console:
    """Standard output, wide enough for whole tables in a file or a pipe."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDE)


def table(*heads: str, right: tuple[int, ...] = (), wrap: tuple[int, ...] = ()) -> Table:
    """An empty table; columns (from 0) in ``right`` are right-aligned, and only those in ``wrap`` are wrapped."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if number in right else "left"
        made.add_column(head, justify=side, overflow="fold", no_wrap=number not in wrap)
    return made


def short(value: float) -> str:
    """A number with four digits, or ``not finite``."""
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def span(seconds: float) -> str:
    """A duration as text: ``3.2 s``, ``5 min``, ``1 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def hypers(values: Mapping[str, float]) -> str:
    """Hyperparameters as one line of text."""
    return "  ".join(f"{name} {short(value)}" for name, value in values.items())


def resume_words(run: str, store: str | None) -> str:
    """The command that resumes a run."""
    return f"recopt run --resume {run}" + (f" --store {shlex.quote(store)}" if store else "")


def report(result: Result, store: str | None) -> None:
    """Print the result of a run, its folder and its record."""
    out = console()
    last = result.engine.state.step
    steps = f"{result.spec.steps:,}"
    how = f"{result.outcome}, {steps} steps"
    if result.status == "KILLED":
        how = f"interrupted at step {last:,} of {steps}"
    if result.chosen and result.chosen.stopped:
        how = f"stopped early at step {last:,} of {steps}, since the score got no better"
    out.print(f"{Path(result.spec.task.name).name}  {result.stack}", style="bold", markup=False)
    lost = result.outcome in ("diverged", "frozen")
    out.print(f"{how}, {span(result.budget.total.seconds)}\n", style="bold red" if lost else None)
    if lost:
        out.print(f"{_WHY[result.outcome]}\n", soft_wrap=True)
    tables = [_figures(result)]
    tables += [_levels(result)] if out.width >= NARROW else [_found(result), _spent(result)]
    tables += [_chosen(result.chosen)] if result.chosen and result.chosen.report else []
    for one in tables:
        out.print(one)
        out.print()
    if result.chosen:
        out.print(f"{_choice(result.chosen)}\n", markup=False, soft_wrap=True)
    for line in _where(result, store):
        out.print(line, markup=False, soft_wrap=True)


_WHY = {
    "diverged": "The last training loss is not finite, or above ten times the first: take smaller rates, or guards.",
    "frozen": "The guard takes back every step, so the model stands still: take smaller rates, or look at the data.",
}


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
    made = table("level", "strategy", "moves", "found", *SPENT, right=(4, 5, 6, 7), wrap=(3,))
    for number in range(1, len(result.spec.levels) + 1):
        made.add_row(*_named(result, number), _values(result, number), *_evaluations(result, number))
    return made


def _found(result: Result) -> Table:
    made = table("level", "strategy", "moves", "found", wrap=(3,))
    for number in range(1, len(result.spec.levels) + 1):
        made.add_row(*_named(result, number), _values(result, number))
    return made


def _spent(result: Result) -> Table:
    made = table("level", *SPENT, right=(1, 2, 3, 4))
    for number in range(1, len(result.spec.levels) + 1):
        made.add_row(str(number), *_evaluations(result, number))
    return made


def _chosen(chosen: Selection) -> Table:
    """The scores on the report's tasks, which had no part in choosing."""
    made = table("values", "of step", "score", "95 % interval", "diverged", right=(1, 2, 3, 4))
    for key, score in chosen.report.items():
        interval = f"{short(score.low)}–{short(score.high)}"
        made.add_row(key, f"{score.step:,}", short(score.mean), interval, f"{score.diverged} of {score.tasks}")
    return made


def _choice(chosen: Selection) -> str:
    cost = f"Choosing and reporting took {chosen.evaluations:,} more evaluations, {span(chosen.seconds)}."
    if chosen.score is None:
        return f"Nothing was chosen, since no score was usable: the last values are exported. {cost}"
    others = " (reported: on as many others)" if chosen.report else ""
    return f"Chosen: the values of step {chosen.step:,}, by {chosen.what}{others}: {chosen.score.words}. {cost}"


SPENT = ("losses", "gradients", "hypergradients", "seconds")


def _named(result: Result, number: int) -> tuple[str, str, str]:
    level = result.spec.levels[number - 1]
    target = level.moves + (f"[{','.join(level.only)}]" if level.only else "")
    return str(number), escape(level.by), escape(target)


def _values(result: Result, number: int) -> str:
    """The hyperparameters, and the number of other meta-parameters."""
    slot = result.spec.levels[number - 1].by
    start, strategy = f"{slot}.", result.engine.graph.slots[slot]
    values = {k.removeprefix(start): v for k, v in result.hyperparameters.items() if k.startswith(start)}
    rest = sum(p.numel() for p in strategy.parameters()) - len(values)
    return "  ".join(filter(None, [hypers(values), f"{rest:,} meta-parameters" if rest else ""]))


def _evaluations(result: Result, number: int) -> tuple[str, str, str, str]:
    spent = result.budget.levels[number - 1]
    return f"{spent.loss:,}", f"{spent.gradient:,}", f"{spent.hypergradient:,}", f"{spent.seconds:.1f}"


def _where(result: Result, store: str | None) -> list[str]:
    if result.run_id is None or result.folder is None:
        return ["Nothing was recorded (--no-track)."]
    folder = result.folder
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    browse = "recopt ui" + (f" --store {shlex.quote(store)}" if store else "")
    lines = [f"run     {result.run_id}", f"folder  {folder}", f"report  {folder / 'report.html'}", f"browse  {browse}"]
    if result.status == "KILLED":
        lines.append(f"go on   {resume_words(result.run_id, store)}")
    return lines
