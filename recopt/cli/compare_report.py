"""The report that ``recopt compare`` prints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..checking.numbers import hypers, short
from .options import store_words
from .tables import console, table

if TYPE_CHECKING:
    from ..comparison import Comparison, Figures, Series
    from ..running.statistics import Interval

_SURE = 0.05


def report(found: Comparison | str, store: str | None, name: str = "") -> None:
    """Print the tables and notes of a comparison, its folder and record; or the reason why ``name`` was skipped."""
    out = console()
    called = f"{name}: " if name else ""
    if isinstance(found, str):
        out.print(f"{called}not run here. {found}\n", markup=False, soft_wrap=True)
        return
    spec = found.spec
    out.print(f"{called}{spec.task_text}  {spec.seeds:,} tasks, {spec.steps:,} steps", style="bold", markup=False)
    what = "sum of the losses at the steps" if spec.measure == "sum" else "loss after the last step"
    both = ", over tasks and trainings where there are several" if any(f.trainings > 1 for f in found.figures) else ""
    out.print(f"{what}; in brackets 95 % intervals{both}")
    out.print(f"difference: from {found.reference}, task by task\n", markup=False, soft_wrap=True)
    out.print(_scores(found))
    out.print()
    out.print(_costs(found))
    out.print()
    for line in _words(found, store):
        out.print(line, markup=False, soft_wrap=True)
    if name:
        out.print()


def report_series(found: Series, output: Path | None) -> None:
    """Print the table of a series: each competitor relative to the reference of each comparison."""
    out, names = console(), found.names
    references = {one.spec.reference for one in found.planned}
    whom = references.pop() if len(references) == 1 else "the reference of each"
    out.print(f"All of them, relative to {whom or 'the best tuned baseline of each'} (below 1 is better)", style="bold",
              markup=False)  # fmt: skip
    lines = table("", *map(escape, names), right=tuple(range(1, len(names) + 1)))
    for name, *cells in found.table(_relative):
        lines.add_row(escape(name), *cells)
    out.print(lines)
    if output is not None:
        out.print(f"folder  {output}", markup=False, soft_wrap=True)


def _relative(f: Figures) -> str:
    value, low, high = f.ratio
    interval = f" ({low:.3g}–{high:.3g})" if low != high else ""
    lost = f" [red]{f.diverged:.0%} diverged[/]" if f.diverged else ""
    return f"{value:.3g}{interval}{lost}"


def _scores(found: Comparison) -> Table:
    metric = next((key for key in found.figures[0].test if key != "loss"), "loss")
    tests = [f"test {metric}"] if any(f.test for f in found.figures) else []
    heads = ("", "mean", "median", "last loss", *tests, "diverged", "difference", "better", "p")
    rows = table(*map(escape, heads), right=tuple(range(1, len(heads))))
    least = min(f.score[0].value for f in found.figures)
    for f in found.figures:
        mean, median = (interval_words(value) for value in f.score)
        mean = f"[bold]{mean}[/]" if f.score[0].value == least else mean
        test = [interval_words(f.test[metric]) if metric in f.test else ""] if tests else []
        lost = f"[red]{round(f.diverged * found.spec.seeds):,}[/]" if f.diverged else "0"
        rows.add_row(escape(f.name), mean, median, short(f.final[0].value), *test, lost, *_difference(f))
    return rows


def interval_words(value: Interval) -> str:
    """A value with its interval in brackets, if it has one."""
    if not math.isfinite(value.low):
        return short(value.value)
    return f"{short(value.value)} ({short(value.low)}–{short(value.high)})"


def _difference(f: Figures) -> list[str]:
    if f.difference is None or f.p is None:
        return ["reference", "", ""]
    mean = f.difference.mean
    text = f"{mean.value:+.4g} ({mean.low:+.4g} to {mean.high:+.4g})"
    p = "< 1e-4" if f.p < 1e-4 else f"{f.p:.2g}"
    return [text, f"{f.difference.lower:.0%}", p if f.p < _SURE else f"[dim]{p}[/]"]


def _costs(found: Comparison) -> Table:
    rows = table("", "tuned to", "evaluations a run", "hypergradients", "to prepare", "pays from", right=(2, 3, 4, 5))
    for entry, f in zip(found.entries, found.figures, strict=True):
        tuned = entry.competitor.hyperparameters
        words = [hypers({k: v for k, v in tuned.items() if isinstance(v, float)})]
        words += [str(v) for k, v in tuned.items() if k == "schedule"]
        prepared = "unknown" if f.prepared is None else f"{f.prepared:,}"
        rows.add_row(escape(f.name), escape("  ".join(filter(None, words))), f"{f.evaluations:,.0f}",
                     f"{f.hypergradients:,.0f}", prepared, _pays(f))  # fmt: skip
    return rows


def _pays(f: Figures) -> str:
    if f.break_even is None:
        return "" if f.difference is None else "unknown"
    if math.isinf(f.break_even):
        return "never"
    return "the first task" if f.break_even <= 1 else f"{math.ceil(f.break_even):,} tasks"


def _words(found: Comparison, store: str | None) -> list[str]:
    spec = found.spec
    lines = []
    if spec.baselines:
        each = spec.tune * spec.tune_tasks * spec.steps
        test = "Wilcoxon, or Student's t where there are several trainings (paired by their seeds)," if any(
            f.trainings > 1 for f in found.figures) else "Wilcoxon,"  # fmt: skip
        lines.append(f"Each baseline was tuned by {spec.tune} trials on {spec.tune_tasks} other tasks: {each:,} "
                     f"evaluations. p: {test} corrected for the number of competitors (Holm).")  # fmt: skip
    return [*lines, *found.notes, *places(found, store)]


def places(found: Comparison, store: str | None) -> list[str]:
    """The folder, the page and the record of a comparison."""
    lines = []
    if found.folder is not None:
        folder = found.folder
        folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        lines += [f"folder  {folder}", f"report  {folder / 'report.html'}"]
    if found.run_id is not None:
        browse = "recopt ui" + store_words(store)
        lines += [f"run     {found.run_id}", f"browse  {browse}"]
    else:
        lines.append("Nothing was recorded (--no-track).")
    return lines
