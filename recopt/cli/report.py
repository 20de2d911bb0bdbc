"""What ``recopt run`` prints at the end."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..result import Result

WIDE = 160
"""Columns where there is no terminal whose width could be asked."""


def console() -> Console:
    """Standard output, with room for a whole table in a file or a pipe."""
    found = Console(highlight=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=WIDE)


def table(*heads: str, right: tuple[int, ...] = ()) -> Table:
    """An empty table; the columns numbered in ``right`` (from 0) are of figures."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        made.add_column(head, justify="right" if number in right else "left", overflow="fold")
    return made


def short(value: float) -> str:
    """A number in four digits, or what it is instead of one."""
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def span(seconds: float) -> str:
    """A time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def hypers(values: Mapping[str, float]) -> str:
    """Hyperparameters in one line."""
    return "  ".join(f"{name} {short(value)}" for name, value in values.items())


def resume_words(run: str, store: str | None) -> str:
    """The command that goes on with a run."""
    return f"recopt run --resume {run}" + (f" --store {shlex.quote(store)}" if store else "")


def report(result: Result, store: str | None) -> None:
    """Print what came of a run, and where to look."""
    out = console()
    last = result.engine.state.step
    how = "finished" if result.status == "FINISHED" else f"interrupted at step {last:,}"
    total = result.budget.total
    out.print(f"{Path(result.spec.task.name).name}  {result.stack}", style="bold", markup=False)
    out.print(f"{how}, {result.spec.steps:,} steps, {span(total.seconds)} in the levels\n")
    out.print(_figures(result))
    out.print()
    out.print(_levels(result))
    out.print()
    for line in _where(result, store):
        out.print(line, markup=False, soft_wrap=True)


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
    found = table("level", "strategy", "moves", "found", "losses", "gradients", "hypergradients", "seconds",
                  right=(4, 5, 6, 7))  # fmt: skip
    counts = {slot: sum(p.numel() for p in s.parameters()) for slot, s in result.engine.graph.slots.items()}
    for number, level in enumerate(result.spec.levels, 1):
        values, spent = result.hyperparameters[number], result.budget.levels[number - 1]
        rest = counts[level.by] - len(values)
        learned = f"{rest:,} weights" if rest else ""
        target = level.moves + (f"[{','.join(level.only)}]" if level.only else "")
        found.add_row(
            str(number), level.by, target, "  ".join(filter(None, [hypers(values), learned])), f"{spent.loss:,}",
            f"{spent.gradient:,}", f"{spent.hypergradient:,}", f"{spent.seconds:.1f}",
        )  # fmt: skip
    return found


def _where(result: Result, store: str | None) -> list[str]:
    if result.run_id is None or result.folder is None:
        return ["Nothing was recorded (--no-track)."]
    folder = result.folder
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    browse = "recopt ui" + (f" --store {shlex.quote(store)}" if store else "")
    lines = [f"run     {result.run_id}", f"folder  {folder}", f"browse  {browse}"]
    if result.status == "KILLED":
        lines.append(f"go on   {resume_words(result.run_id, store)}")
    return lines
