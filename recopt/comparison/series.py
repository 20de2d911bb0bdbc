"""A series of comparisons from one spec, with one table and picture of all."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts.errors import DataMissing, RecoptError
from .result import Comparison
from .spec import CompareSpec, make_compare_spec

EACH = "each"


@dataclass(frozen=True)
class Row:
    """One comparison of a series: its name and spec."""

    name: str
    spec: CompareSpec

    @property
    def folder(self) -> str:
        """The name of its folder inside the folder of the series."""
        return re.sub(r"[^A-Za-z0-9.,=-]+", "-", self.name).strip("-.") or "row"


@dataclass(frozen=True)
class Line:
    """The figures of one competitor in one comparison.

    Attributes:
        row: the comparison's name; ``name``: the competitor's.
        mean, low, high: of the score, with its 95 % interval; ``median``: of the score.
        ratio, ratio_low, ratio_high: 1 + (mean paired difference from the reference) / (mean of the reference), with
            the interval of that difference; 1 for the reference itself. Below 1 is better.
        better: the share of tasks with a lower score than the reference's.
        p: of the difference (see :class:`.result.Figures`), corrected by Holm within the row.
        diverged: the share of diverged runs.
    """

    row: str
    name: str
    kind: str
    mean: float
    low: float
    high: float
    median: float
    ratio: float
    ratio_low: float
    ratio_high: float
    better: float
    p: float
    diverged: float


@dataclass(frozen=True)
class Series:
    """The results of a series: lines of the comparisons that ran; ``missing`` has the reasons of the others, by row."""

    rows: Sequence[Row]
    lines: Sequence[Line]
    missing: Mapping[str, str]


def read_rows(data: Mapping[str, Any], where: str, over: Mapping[str, Any] | None = None) -> list[Row]:
    """The comparisons of a spec, one for each mapping under ``each``.

    A mapping overrides the rest of the spec, and ``over`` overrides both.

    Raises:
        RecoptError: with the place of the first mistake, or if two rows have the same folder.
    """
    shared = {key: value for key, value in data.items() if key != EACH}
    given = data[EACH]
    if not isinstance(given, list) or not given or not all(isinstance(one, Mapping) for one in given):
        raise RecoptError(f"In {where} '{EACH}' should be a list of mappings, like: - {{task: mnist, steps: 200}}.")
    rows: list[Row] = []
    for number, one in enumerate(given, 1):
        own, name = {key: value for key, value in one.items() if key != "name"}, one.get("name")
        if not isinstance(name, str | None):
            raise RecoptError(f"In {where}, {EACH} {number}: 'name' should be text, not {name!r}.")
        spec = make_compare_spec({**shared, **own, **(over or {})}, f"{where}, {EACH} {number}")
        row = Row(name or spec.task_text, spec)
        if row.folder in {other.folder for other in rows}:
            raise RecoptError(f"In {where} two rows under '{EACH}' are called '{row.name}': give one another 'name'.")
        rows.append(row)
    return rows


def carry_out_each(
    rows: Sequence[Row], one: Callable[[Row], Comparison], told: Callable[[Row, Comparison | str, Series], None]
) -> Series:
    """Run the comparisons in their order, each by ``one``.

    A row whose data are missing on this machine is skipped. ``told`` is called after each row with its comparison, or
    the reason it was skipped, and the series so far.
    """
    series = Series(rows, [], {})
    for row in rows:
        found: Comparison | str
        try:
            found = one(row)
            series = replace(series, lines=[*series.lines, *lines_of(row.name, found)])
        except DataMissing as why:
            found = str(why).partition("\n")[0]
            series = replace(series, missing={**series.missing, row.name: found})
        told(row, found, series)
    return series


def lines_of(row: str, found: Comparison) -> list[Line]:
    """The figures of a comparison, one line per competitor."""
    base = next(f for f in found.figures if f.name == found.reference)
    scale, lines = base.score[0].value, []
    for f in found.figures:
        mean, median = f.score
        ratio, better, p = (1.0, 1.0, 1.0), math.nan, math.nan
        if f.difference is not None and f.p is not None:
            middle, below, above = f.difference.mean
            ratio = (1 + middle / scale, 1 + below / scale, 1 + above / scale) if scale else (math.nan,) * 3
            better, p = f.difference.lower, f.p
        lines.append(Line(row, f.name, f.kind, mean.value, mean.low, mean.high, median.value, *ratio, better, p,
                          f.diverged))  # fmt: skip
    return lines


def save(series: Series, folder: Path) -> None:
    """Write ``series.csv`` (a row for each line), ``series.md`` (a table) and ``series.png`` into ``folder``.

    Raises:
        RecoptError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "series.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Line.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(vars(line) for line in series.lines)
        (folder / "series.md").write_text("\n".join(markdown(series)) + "\n")
        if series.lines:
            _plot(series).savefig(folder / "series.png", dpi=150)
    except OSError as why:
        raise RecoptError(f"{folder} cannot be written ({why.strerror}): choose another place.") from None


def _plot(series: Series) -> Any:
    from ..plots.series import plot

    ratios: dict[str, dict[str, tuple[float, float, float]]] = {}
    for line in series.lines:
        ratios.setdefault(line.name, {})[line.row] = (line.ratio, line.ratio_low, line.ratio_high)
    references = {row.spec.reference for row in series.rows}
    whom = "the reference" if references - {None} else "the best tuned baseline"
    return plot([row.name for row in series.rows if row.name not in series.missing], ratios, whom)


def markdown(series: Series) -> list[str]:
    """The table in Markdown: a row per comparison, a column per competitor."""
    names = list(dict.fromkeys(line.name for line in series.lines))
    head = ["", *(name.replace("|", "\\|") for name in names)]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    cells = {(line.row, line.name): cell(line) for line in series.lines}
    for row in series.rows:
        if row.name in series.missing:
            found = ["not run here", *[""] * (len(names) - 1)]
        else:
            found = [cells.get((row.name, name), "") for name in names]
        out.append(f"| {row.name} | {' | '.join(found)} |")
    return out


def cell(line: Line) -> str:
    """The mean with its interval, and the share of diverged runs if any."""
    interval = f" ({line.low:.3g}–{line.high:.3g})" if math.isfinite(line.low) else ""
    lost = f", {line.diverged:.2g} diverged" if line.diverged else ""
    return f"{line.mean:.4g}{interval}{lost}"
