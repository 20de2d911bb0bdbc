"""A series of comparisons from one spec, with one table and picture of all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..checking.errors import DataMissing, RecoptError, quoted, writing
from .compare_spec import CompareSpec, make_compare_spec
from .comparison import Comparison, write_table
from .figures import Figures, row

EACH = "each"


class Planned(NamedTuple):
    """One comparison of a series: its name and spec."""

    name: str
    spec: CompareSpec

    @property
    def folder(self) -> str:
        """The name of its folder inside the folder of the series."""
        return re.sub(r"[^A-Za-z0-9.,=-]+", "-", self.name).strip("-.") or "row"


@dataclass
class Series:
    """The results of a series so far.

    Attributes:
        figures: of all competitors, by the name of the comparison; none of a comparison that was not run.
    """

    planned: Sequence[Planned]
    figures: dict[str, Sequence[Figures]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All competitors."""
        return list(dict.fromkeys(f.name for figures in self.figures.values() for f in figures))

    def table(self, cell: Callable[[Figures], str]) -> list[list[str]]:
        """A line per comparison: its name, then the cell of each of ``names``, empty for those that are not in it."""
        lines = []
        for one in self.planned:
            cells = {f.name: cell(f) for f in self.figures.get(one.name, ())}
            missing = ["not run here"] + [""] * (len(self.names) - 1)
            lines.append([one.name, *([cells.get(name, "") for name in self.names] if cells else missing)])
        return lines


def plan_series(data: Mapping[str, Any], where: str, over: Mapping[str, Any] | None = None) -> list[Planned]:
    """The comparisons of a spec, one for each mapping under ``each``.

    A mapping overrides the rest of the spec, and ``over`` overrides both.

    Raises:
        RecoptError: with the place of the first mistake, or if two comparisons have the same folder.
    """
    shared = {key: value for key, value in data.items() if key != EACH}
    given = data[EACH]
    if not isinstance(given, list) or not given or not all(isinstance(one, Mapping) for one in given):
        raise RecoptError(f"In {where} '{EACH}' should be a list of mappings, like: - {{task: mnist, steps: 200}}.")
    planned: list[Planned] = []
    for number, one in enumerate(given, 1):
        own, name = {key: value for key, value in one.items() if key != "name"}, one.get("name")
        if not isinstance(name, str | None):
            raise RecoptError(f"In {where}, {EACH} {number}: 'name' should be text, not {quoted(name)}.")
        spec = make_compare_spec({**shared, **own, **(over or {})}, f"{where}, {EACH} {number}")
        made = Planned(name or spec.task_text, spec)
        if made.folder in {other.folder for other in planned}:
            raise RecoptError(f"In {where} two rows under '{EACH}' are called '{made.name}': give one another 'name'.")
        planned.append(made)
    return planned


def run_series(
    planned: Sequence[Planned], run: Callable[[Planned], Comparison],
    after_each: Callable[[Planned, Comparison | str, Series], None],
) -> Series:  # fmt: skip
    """Run the comparisons in their order, each by ``run``.

    One whose data are missing on this machine is skipped. ``after_each`` gets each one with its comparison, or the
    reason it was skipped, and the series so far.
    """
    series = Series(planned)
    for one in planned:
        found: Comparison | str
        try:
            found = run(one)
            series.figures[one.name] = found.figures
        except DataMissing as why:
            found = str(why).partition("\n")[0]
        after_each(one, found, series)
    return series


def save_series(series: Series, folder: Path) -> None:
    """Write ``series.csv`` (a row per comparison and competitor), ``series.md`` and ``series.png`` into ``folder``.

    Raises:
        RecoptError: if the folder cannot be written.
    """
    from ..plots.comparison import plot_series

    found = series.figures
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "series.csv", [{"row": name, **row(f)} for name, own in found.items() for f in own])
        (folder / "series.md").write_text("\n".join(markdown(series)) + "\n")
        if found:
            references = {one.spec.reference for one in series.planned}
            whom = "the reference" if references - {None} else "the best tuned baseline"
            ratios = {name: {at: f.ratio for at, own in found.items() for f in own if f.name == name}
                      for name in series.names}  # fmt: skip
            plot_series(list(found), ratios, whom).savefig(folder / "series.png", dpi=150)


def markdown(series: Series) -> list[str]:
    """The table in Markdown: a row per comparison, a column per competitor."""
    head = ["", *(name.replace("|", "\\|") for name in series.names)]
    lines = [head, ["---"] * len(head), *series.table(_cell)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(f: Figures) -> str:
    """The mean with its interval, and the share of diverged runs if any."""
    mean = f.score[0]
    interval = f" ({mean.low:.3g}–{mean.high:.3g})" if math.isfinite(mean.low) else ""
    lost = f", {f.diverged:.2g} diverged" if f.diverged else ""
    return f"{mean.value:.4g}{interval}{lost}"
