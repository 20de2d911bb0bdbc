"""A finished comparison: every competitor's runs and figures, its picture and its files.

``comparison.yaml`` repeats it, ``comparison.json`` has everything but the single runs, ``table.csv`` a row per
competitor, ``runs.csv`` a row per run, ``curves.csv`` the bands of the curves, ``comparison.png`` the picture, and
``report.html`` a page of all.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from ..checking.errors import writing
from ..checking.numbers import finite
from ..plots.comparison import Curve, plot, plots
from ..plots.page import PAGE, document, number, spread, svg, table, titled
from ..running.repeats import CAP, DIVERGED
from ..running.statistics import crossed_paired, holm
from .compare_spec import CompareSpec, report_seeds, tuning_seeds, write_compare_spec
from .figures import Entry, Figures, bands, figures_of, row

SPEC = "comparison.yaml"
MEASURES = {"sum": "Sum of the losses", "final": "Loss after the last step"}
"""The scores of a comparison in words."""


@dataclass
class Comparison:
    """A finished comparison.

    Attributes:
        spec: the spec that repeats it.
        entries: competitors with their runs, in the given order: stacks, then baselines.
        reference: name of the competitor that the others are compared with; by default the best baseline on the tuning
            tasks (not on the test tasks), or the first competitor if there is no baseline.
        folder, run_id: its folder and the id of its record; None if there is none.
        left_out: the reasons why competitors are not in it, by name: their training failed.
    """

    KIND: ClassVar[str] = "comparison"
    """Its kind among recorded runs."""
    COMMAND: ClassVar[str] = "compare"

    spec: CompareSpec
    entries: list[Entry] = field(repr=False)
    reference: str
    folder: Path | None = None
    run_id: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name. Raises KeyError if there is none."""
        return {entry.name: entry for entry in self.entries}[name]

    @cached_property
    def figures(self) -> list[Figures]:
        """The figures of every competitor, in the order of ``entries``."""
        base, measure = self[self.reference], self.spec.measure
        scores = {e.name: e.runs.by_task(e.runs.score(measure)) for e in self.entries}
        pairs = {
            e.name: crossed_paired(scores[e.name], scores[base.name], matched=e.seeds == base.seeds)
            for e in self.entries
            if e is not base
        }
        corrected = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
        return [figures_of(e, base, measure, pairs.get(e.name), corrected.get(e.name)) for e in self.entries]

    @property
    def notes(self) -> list[str]:
        """Remarks on the competitors, with the mean score of each training where there are several."""
        found = [f"{name} is left out, since its training failed: {why}" for name, why in self.left_out.items()]
        for entry in self.entries:
            found += [f"{entry.name}: {note}" for note in entry.competitor.notes]
            if (count := len(entry.seeds)) > 1:
                means = entry.runs.by_task(entry.runs.score(self.spec.measure)).mean(1)
                listed = ", ".join(f"{mean:.4g} (seed {seed})" for mean, seed in zip(means, entry.seeds, strict=True))
                found.append(f"{entry.name}: trained {count} times, with means {listed}.")
        return found

    def summary(self) -> dict[str, float]:
        """Metrics of all of it: the scores of the reference and of the best other, and the total cost."""
        values = {f.name: f.score[0].value for f in self.figures}
        others = [value for name, value in values.items() if name != self.reference]
        total = sum(
            e.runs.times * (e.runs.evaluations * self.spec.seeds + (e.competitor.prepared or 0)) for e in self.entries
        )
        return {
            "reference_score": values[self.reference], **({"best_other_score": min(others)} if others else {}),
            "evaluations": total, "diverged": max(f.diverged for f in self.figures),
            "seconds": sum(e.runs.seconds for e in self.entries),
        }  # fmt: skip

    def plot(self) -> Any:
        """A matplotlib figure: curves with bands, and each competitor's mean score with its interval."""
        spec = self.spec
        return plot(f"{spec.task_text}: {spec.seeds:,} tasks, {spec.steps:,} steps", *self._curves())

    def _curves(self) -> tuple[int, str, list[Curve]]:
        curves = [Curve(e.name, bands(e.runs), *f.score) for e, f in zip(self.entries, self.figures, strict=True)]
        return self.spec.steps, MEASURES[self.spec.measure], curves

    def __repr__(self) -> str:
        spec = self.spec
        wide = max(len(f.name) for f in self.figures)
        means = [(f.name, f.score[0]) for f in self.figures]
        scores = [f"{n:{wide}}  {number(m.value)} ({number(m.low)} to {number(m.high)})" for n, m in means]
        what = "sum of the losses" if spec.measure == "sum" else "last loss"
        head = f"{spec.task_text}: {spec.seeds:,} tasks, {spec.steps:,} steps; mean {what}, 95 % interval"
        return "\n".join([head, *scores, *([f"folder  {self.folder}"] if self.folder else [])])

    def _repr_html_(self) -> str:
        """The figures and the picture, for notebooks and the page of a comparison."""
        spec, cells = self.spec, []
        for f in self.figures:
            pair = ["reference", ""] if f.difference is None else [spread(f.difference.mean), f"{f.p:.2g}"]
            prepared = "unknown" if f.prepared is None else number(f.prepared)
            cells.append([escape(f.name), spread(f.score[0]), spread(f.score[1]), number(f.final[0].value),
                          f"{f.diverged:.0%}", *pair, number(f.evaluations), prepared])  # fmt: skip
        heads = ("", "mean", "median", "last loss", "diverged", "difference", "p", "evaluations a run", "to prepare")
        about = f"{spec.task_text}: {spec.seeds:,} tasks, {spec.steps:,} steps, against {self.reference}"
        score = "the sum of the losses at the steps" if spec.measure == "sum" else "the last loss"
        legend = (
            f"Mean and median are of {score}: less is better. In brackets 95 % intervals. Differences are task by task "
            "from the reference; p is corrected for the number of competitors. To prepare: evaluations of tuning or of "
            "training."
        )
        notes = "".join(f"<li>{escape(note)}</li>" for note in [legend, *self.notes])
        scores = titled("Scores", f"{table(heads, cells)}<ul class=note>{notes}</ul>")
        head = f"<header><h1>Comparison</h1><p class=stack>{escape(about)}</p></header>"
        charts = "".join(f"<figure>{svg(one)}</figure>" for one in plots(*self._curves()))
        return f"{head}{scores}<section><div class='charts pair'>{charts}</div></section>"

    def plain(self) -> dict[str, Any]:
        """The figures, tuning trials and curves, for JSON; NaN becomes None, and infinities become text."""
        spec = self.spec
        tested, tuned = report_seeds(spec), tuning_seeds(spec)
        found: dict[str, Any] = finite({
            "spec": spec.model_dump(mode="json"), "reference": self.reference,
            "capped_at": CAP, "diverged_above": DIVERGED,
            "report_seeds": [tested[0], tested[-1]], "tuning_seeds": [tuned[0], tuned[-1]] if spec.baselines else None,
            "tuning_evaluations_each": spec.tune * spec.tune_tasks * spec.steps if spec.baselines else 0,
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
            "entries": [_plain(e, f) for e, f in zip(self.entries, self.figures, strict=True)],
        }, lambda number: None if math.isnan(number) else str(number))  # fmt: skip
        return found

    def save(self, folder: str | Path) -> Path:
        """Write the files listed at the top of this module into ``folder``, and return it.

        Raises:
            RecoptError: if the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SPEC).write_text(write_compare_spec(self.spec))
            (folder / "comparison.json").write_text(json.dumps(self.plain(), indent=1, allow_nan=False) + "\n")
            write_table(folder / "table.csv", [row(figures) for figures in self.figures])
            write_table(folder / "runs.csv", [line for entry in self.entries for line in _runs(self.spec, entry)])
            write_table(folder / "curves.csv", [line for entry in self.entries for line in _curve(entry)])
            self.plot().savefig(folder / "comparison.png", dpi=150)
            (folder / PAGE).write_text(document(self.spec.task_text, self._repr_html_()), encoding="utf-8")
        return folder


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` as CSV, with the columns of all of them."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for one in rows for key in one)))
        writer.writeheader()
        writer.writerows(rows)


def _plain(entry: Entry, figures: Figures) -> dict[str, Any]:
    made = entry.competitor
    trainings = [{"seed": t.seed, "evaluations": t.evaluations, "run_id": t.run_id} for t in made.trainings]
    return {
        **row(figures), "stack": made.graph.describe(), "hyperparameters": dict(made.hyperparameters),
        "notes": list(made.notes), "tuning_score": made.tuning_score, "restored": entry.runs.restored,
        "seconds": entry.runs.seconds, "trials": [{**trial.values, "score": trial.score} for trial in made.trials],
        **({"trained": trainings} if trainings else {}),
        "curve": {key: values.tolist() for key, values in bands(entry.runs).items()},
    }  # fmt: skip


def _runs(spec: CompareSpec, entry: Entry) -> Iterable[dict[str, Any]]:
    runs, seeds = entry.runs, report_seeds(spec)
    score, diverged = runs.score(spec.measure), runs.diverged
    for n in range(len(score)):
        trained = {"trained_from": entry.seeds[n // len(seeds)]} if entry.seeds else {}
        yield {
            "name": entry.name, **trained, "seed": seeds[n % len(seeds)], "score": score[n],
            "first": runs.losses[n, 0], "final": runs.losses[n, -1], "diverged": int(diverged[n]),
            **{f"test_{key}": values[n] for key, values in runs.test.items()},
        }  # fmt: skip


def _curve(entry: Entry) -> list[dict[str, Any]]:
    kept = bands(entry.runs)
    columns = zip(*kept.values(), strict=True)
    return [{"name": entry.name, "step": n, **dict(zip(kept, values, strict=True))} for n, values in enumerate(columns)]
