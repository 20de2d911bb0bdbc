"""An ablation: whether each level of a stack pays, at equal budget, with paired seeds.

A level pays by its result (lower losses than the stack without it) or by its robustness (start values that are wrong by
some factors matter less with it: the reason for height in Chandra et al. 2022, 1909.13371, §4). Both are means over
seeds of log ratios, with Student's t intervals that hold together with the confidence of one (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, ClassVar

import numpy as np

from ..checking.numbers import finite, short
from ..plots.ablation import Line, plot_ablation
from ..plots.page import number, spread, svg, table, titled
from ..running.repeats import Floats, Runs
from ..running.statistics import LEVEL, Interval, mean_interval
from .ablate_spec import AblateSpec, scaled
from .comparison import MEASURES, Comparison
from .figures import Entry, bands

WORTH = 1e-3
"""Gains up to a thousandth are none, however sure: with paired seeds a level that does next to nothing shows them."""
_TINY = 1e-12
"""Losses relative to the first one below which differences are rounding."""
_SMOOTH = 0.05
"""The share of the evaluations so far over which a last loss is averaged, for where a level begins to pay."""


@dataclass(frozen=True)
class LevelFigures:
    """The figures of one depth, and of its highest level against the stack without it.

    Attributes:
        depth: the number of layers; ``stack`` in notation.
        score: the mean over seeds.
        gain: the mean of log(score without the level / score with it); None for the first level. Above 0: it helps.
        starts: by layer and scale of its start values, the mean of log(score from there / score as given): of the
            highest layer, and of the one below it.
        spread: the mean over seeds of the greatest log ratio of two scores from all of these; None if there are none.
        steadier: the mean over seeds of the spread without the level, less the spread with it; None if one of the two
            is not there. Above 0: what was to be set is set by the level, and its own start values matter less.
        break_even: the evaluations after which the level has paid for good, in the mean over seeds; inf if never.
        evaluations, hypergradients, seconds: per run.
    """

    depth: int
    stack: str
    score: Interval
    gain: Interval | None
    starts: Mapping[tuple[int, float], Interval]
    spread: Interval | None
    steadier: Interval | None
    break_even: float | None
    evaluations: float
    hypergradients: float
    seconds: float

    @property
    def pays(self) -> bool:
        """True if the level pays, by its result or, where that is no worse, by its robustness."""
        return self.verdict in ("pays", "steadies")

    @property
    def verdict(self) -> str:
        """The sign of the gain and of what start values matter; empty for the first level.

        ``pays`` (in the result), ``steadies`` (start values surely matter less, by more than the result may have lost),
        ``harms``, ``trades`` (worse, yet start values matter less), ``no difference shown``.
        """
        if self.gain is None:
            return ""
        steadier = 0.0 if self.steadier is None else self.steadier.low
        if self.gain.low > WORTH:
            return "pays"
        if self.gain.high < -WORTH:
            return "trades" if steadier > WORTH else "harms"
        return "steadies" if steadier > max(WORTH, -self.gain.low) else "no difference shown"

    @property
    def sentence(self) -> str:
        """The verdict with the figures that it rests on."""
        if self.gain is None:
            return ""
        low, high = _percent(-self.gain.high), _percent(-self.gain.low)
        change = f"scores change by {_percent(-self.gain.value)} ({low} to {high})"
        starts = ""
        if self.steadier is not None and self.spread is not None:
            without = math.exp(self.spread.value + self.steadier.value)
            sure = "" if self.steadier.low > 0 or self.steadier.high < 0 else ", which is within the noise"
            starts = f"; wrong start values change scores up to ×{math.exp(self.spread.value):.3g} with it, "
            starts += f"×{without:.3g} without{sure}"
        words = {
            "pays": "pays", "harms": "harms", "no difference shown": "is not shown to pay",
            "steadies": "pays where start values are not known", "trades": "costs, and makes start values matter less",
        }  # fmt: skip
        return f"Level {self.depth} {words[self.verdict]}: {change}{starts}."


def _percent(log_ratio: float) -> str:
    """A log ratio as a change: −0.105 is −10 %."""
    change = 100 * math.expm1(log_ratio)
    return f"{change:+.3g} %" if abs(change) < 1e4 else f"×{math.exp(log_ratio):.3g}"


@dataclass
class Ablation(Comparison):
    """A finished ablation; its competitors are the stack at each depth, from start values as given and scaled."""

    KIND: ClassVar[str] = "ablation"
    COMMAND: ClassVar[str] = "ablate"

    spec: AblateSpec

    @cached_property
    def levels(self) -> list[LevelFigures]:
        """The figures of every depth, from one layer to all."""
        depths = self.spec.depths
        sure = 1 - (1 - LEVEL) / (2 * (len(depths) - 1))
        return [self._level(n, sure) for n in range(len(depths))]

    def _level(self, n: int, sure: float) -> LevelFigures:
        text = self.spec.depths[n]
        runs, gain, pays_from, steadier = self[text].runs, None, None, None
        mine = self._spreads(text)
        if n:
            below = self.spec.depths[n - 1]
            gain = mean_interval(_log_ratio(self._scores(below), self._scores(text)), sure)
            pays_from = break_even(self[below].runs, runs, self.spec.measure)
            theirs = self._spreads(below, n)
            if mine is not None and theirs is not None:
                steadier = mean_interval(theirs - mine, sure)
        own = self._scores(text)
        starts = {
            key: mean_interval(_log_ratio(self._scores(entry.name), own), sure)
            for key, entry in self._scaled(text).items()
        }
        return LevelFigures(
            n + 1, text, mean_interval(own), gain, starts, None if mine is None else mean_interval(mine, sure),
            steadier, pays_from, runs.evaluations, runs.hypergradients, runs.seconds / len(own),
        )  # fmt: skip

    def _scores(self, name: str) -> Floats:
        return self[name].runs.score(self.spec.measure)

    def _scaled(self, text: str) -> dict[tuple[int, float], Entry]:
        """By layer and scale, the runs from start values that were scaled."""
        known, depth = {entry.name: entry for entry in self.entries}, self.spec.depths.index(text) + 1
        keys = [(layer, scale) for layer in (depth - 1, depth) for scale in self.spec.scales]
        return {key: known[name] for key in keys if (name := scaled(text, *key)) in known}

    def _spreads(self, text: str, layer: int = 0) -> Floats | None:
        """By seed, the greatest log ratio of two scores from start values that were scaled (0: of both layers)."""
        own, found = self._scores(text), self._scaled(text)
        each = [_log_ratio(self._scores(entry.name), own) for (at, _), entry in found.items() if layer in (0, at)]
        return np.ptp(np.stack([np.zeros_like(own), *each]), axis=0) if each else None

    @property
    def notes(self) -> list[str]:
        """A sentence on every level above the first, then remarks on the competitors."""
        return [level.sentence for level in self.levels[1:]] + super().notes

    def summary(self) -> dict[str, float]:
        """As of a comparison, with the gain and the verdict of each level."""
        found = super().summary()
        for level in self.levels[1:]:
            assert level.gain is not None
            found |= {f"level{level.depth}_gain": level.gain.value, f"level{level.depth}_pays": float(level.pays)}
        return found

    def plot(self) -> Any:
        """A matplotlib figure: the losses of each depth, and its scores by the scale of the start values."""
        spec = self.spec
        title = f"{spec.task_text}, {spec.stack}: {spec.seeds:,} seeds, {spec.steps:,} evaluations"
        lines = []
        for level in self.levels:
            names: dict[int, dict[float, str]] = {}
            for (layer, scale), entry in self._scaled(level.stack).items():
                names.setdefault(layer, {1.0: level.stack})[scale] = entry.name
            scores = {
                layer: {scale: mean_interval(self._scores(name)) for scale, name in sorted(named.items())}
                for layer, named in names.items()
            }
            lines.append(Line(f"depth {level.depth}", bands(self[level.stack].runs), scores))
        return plot_ablation(title, spec.steps, MEASURES[spec.measure], lines)

    def plain(self) -> dict[str, Any]:
        """As of a comparison, with ``levels``."""
        return super().plain() | {"levels": finite([_plain(level) for level in self.levels], _text)}

    def __repr__(self) -> str:
        spec = self.spec
        head = f"{spec.task_text} {spec.stack}: {spec.seeds:,} seeds, {spec.steps:,} evaluations"
        scores = [f"depth {level.depth}  {number(level.score.value)}  {level.stack}" for level in self.levels]
        return "\n".join([head, *scores, *(level.sentence for level in self.levels[1:])])

    def _repr_html_(self) -> str:
        """A table of the levels with what each brings, and the picture; then the figures of all competitors."""
        spec = self.spec
        heads = ("depth", "stack", "score", "gain", "start values", "pays from", "evaluations", "seconds", "verdict")
        lines = [
            (str(level.depth), escape(level.stack), spread(level.score),
             "" if level.gain is None else spread(level.gain),
             "" if level.spread is None else f"×{math.exp(level.spread.value):.3g}",
             "" if level.break_even is None else number(level.break_even), number(level.evaluations),
             f"{level.seconds:.2f}", level.verdict)
            for level in self.levels
        ]  # fmt: skip
        notes = "".join(f"<li>{escape(level.sentence)}</li>" for level in self.levels[1:])
        head = f"<header><h1>Ablation</h1><p class=stack>{escape(f'{spec.task_text} {spec.stack}')}</p></header>"
        body = f"{table(heads, lines)}<ul class=note>{notes}</ul><figure>{svg(self.plot())}</figure>"
        return f"{head}{titled('Whether each level pays', body)}{super()._repr_html_()}"


def _plain(level: LevelFigures) -> dict[str, Any]:
    """The figures of a depth as JSON; intervals have ``value``, ``low`` and ``high``."""
    found = {
        key: value._asdict() if isinstance(value, Interval) else value
        for key, value in level.__dict__.items()
        if key != "starts"
    }
    starts = [{"level": layer, "scale": scale, **x._asdict()} for (layer, scale), x in level.starts.items()]
    return {**found, "starts": starts, "verdict": level.verdict, "pays": level.pays}


def _text(value: float) -> str | None:
    return None if math.isnan(value) else short(value) if math.isfinite(value) else str(value)


def _log_ratio(a: Floats, b: Floats) -> Floats:
    """log(a / b) by seed. For scores that are not all positive, (a − b) over the mean of their sizes, which is near."""
    if (a > 0).all() and (b > 0).all():
        return np.asarray(np.log(a / b))
    return np.asarray(2 * (a - b) / np.maximum(np.abs(a) + np.abs(b), _TINY))


def break_even(below: Runs, runs: Runs, measure: str) -> float:
    """The evaluations after which the mean log ratio of the scores so far stays above 0; inf if it never does.

    The score so far is the sum of the losses, or for ``final`` their mean over the last twentieth.
    """
    mean = _log_ratio(_so_far(below, measure), _so_far(runs, measure)).mean(0)
    behind = np.flatnonzero(mean <= 0)
    last = int(behind[-1]) if len(behind) else -1
    return math.inf if last == len(mean) - 1 else float(last + 2)


def _so_far(runs: Runs, measure: str) -> Floats:
    """The scores if the run had ended after 1, 2, … T evaluations, shape (N, T)."""
    if measure == "sum":
        return np.cumsum(runs.capped[:, :-1], axis=1)
    whole = np.cumsum(runs.capped[:, 1:], axis=1)
    ends = np.arange(1, whole.shape[1] + 1)
    begins = ends - np.maximum(1, np.round(_SMOOTH * ends)).astype(int)
    before = np.where(begins > 0, whole[:, np.maximum(begins - 1, 0)], 0.0)
    return np.asarray((whole - before) / (ends - begins))
