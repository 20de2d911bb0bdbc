"""The result of a comparison: every competitor's runs and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..running.statistics import crossed_paired, holm
from . import files
from .figures import Entry, Figures, bands, figures_of
from .spec import CompareSpec


@dataclass
class Comparison:
    """A finished comparison.

    Attributes:
        spec: the spec that repeats it.
        entries: competitors with their runs, in the given order: stacks, then baselines.
        reference: name of the competitor that the others are compared with; by default the best baseline on the tuning
            tasks (not on the test tasks), or the first competitor if there is no baseline.
        folder, run_id: its folder and the id of its record; None if there is none.
    """

    spec: CompareSpec
    entries: list[Entry]
    reference: str
    folder: Path | None = None
    run_id: str | None = None
    _figures: list[Figures] = field(default_factory=list, repr=False)

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name. Raises KeyError if there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    @property
    def figures(self) -> list[Figures]:
        """The figures of every competitor, in the order of ``entries``."""
        if not self._figures:
            self._figures = _figures(self)
        return self._figures

    @property
    def notes(self) -> list[str]:
        """Remarks on the competitors."""
        return [f"{e.name}: {note}" for e in self.entries for note in (*e.competitor.notes, *self._trained(e))]

    def _trained(self, entry: Entry) -> list[str]:
        """A remark with the mean score of each training, if there are several."""
        trainings, runs = entry.competitor.trainings, entry.runs
        if len(trainings) < 2:
            return []
        means = runs.by_task(runs.score(self.spec.measure)).mean(1)
        told = ", ".join(f"{mean:.4g} (seed {one.seed})" for mean, one in zip(means, trainings, strict=True))
        return [f"trained {len(trainings)} times, with means {told}."]

    def plot(self) -> Any:
        """A matplotlib figure: curves with bands, and each competitor's mean score with its interval."""
        from ..plots.comparison import Curve, plot

        spec = self.spec
        curves = [
            Curve(entry.name, bands(entry.runs), *figures.score)
            for entry, figures in zip(self.entries, self.figures, strict=True)
        ]
        what = "Sum of the losses" if spec.measure == "sum" else "Loss after the last step"
        return plot(f"{spec.task_text}: {spec.seeds:,} tasks, {spec.steps:,} steps", spec.steps, what, curves)

    def save(self, folder: str | Path) -> Path:
        """Write all files (see :mod:`recopt.comparison.files`) into ``folder``, and return it.

        Raises:
            RecoptError: if the folder cannot be written.
        """
        return files.save(self._found, self.plot(), Path(folder))

    def plain(self) -> dict[str, Any]:
        """The figures, tuning trials and curves, for JSON."""
        return files.plain(self._found)

    @property
    def _found(self) -> files.Found:
        return files.Found(self.spec, self.entries, self.figures, self.reference)


def _figures(found: Comparison) -> list[Figures]:
    base, measure = found[found.reference], found.spec.measure
    scores = {e.name: e.runs.by_task(e.runs.score(measure)) for e in found.entries}
    pairs = {
        e.name: crossed_paired(scores[e.name], scores[base.name], matched=e.seeds == base.seeds)
        for e in found.entries
        if e is not base
    }
    corrected = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
    return [figures_of(e, base, measure, pairs.get(e.name), corrected.get(e.name)) for e in found.entries]
