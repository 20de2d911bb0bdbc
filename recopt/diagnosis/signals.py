"""Figures on the signals of levels above the first: whether they say anything, and what became of their steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..tracking.thinning import Floats
from .curve import FEW
from .moved import TASK, moved, slot_of
from .view import LevelView, RunView

HEADS = ("level", "strategy", "agreement at first", "agreement", "signal to noise", "cut", "left out", "at bounds")
_PARTS = 5
"""Parts of a run that are looked at by themselves: signals fade as what they move becomes good."""
_SURE, _CLEAR = 2.0, 3.0
"""Standard errors from which all signals, or those of a part, are taken to agree."""


@dataclass(frozen=True)
class Figures:
    """The figures of one level.

    Attributes:
        cosines: between successive signals, shape (n,).
        cut, left_out: the shares of its steps that the guard cut, or left out.
        bounds: the share of the values that it moves which ended at an end of their range.
    """

    level: LevelView
    cosines: Floats
    cut: float
    left_out: float
    bounds: float

    @property
    def at_first(self) -> float:
        """The mean cosine of the first fifth."""
        return float(self.cosines[: max(1, len(self.cosines) // _PARTS)].mean())

    @property
    def agreement(self) -> float:
        """The mean cosine: 1 for signals that all point one way, 0 for noise, below 0 where they turn back."""
        return float(self.cosines.mean())

    @property
    def error(self) -> float:
        """The standard error of that."""
        return float(self.cosines.std() / math.sqrt(len(self.cosines)))

    @property
    def ratio(self) -> float:
        """The norm of the mean signal over that of the noise: √(a / (1 − a)) for an agreement a above 0."""
        a = min(max(self.agreement, 0.0), 1.0)
        return math.sqrt(a / (1 - a)) if a < 1 else math.inf

    @property
    @np.errstate(all="ignore")
    def silent(self) -> bool:
        """True if neither all signals nor those of any fifth agree by more than chance."""
        if len(self.cosines) < 2 * FEW or self.agreement > _SURE * self.error:
            return False
        parts = np.array_split(self.cosines, _PARTS)
        return all(part.mean() <= _CLEAR * part.std() / math.sqrt(len(part)) for part in parts)

    @np.errstate(all="ignore")
    def row(self) -> tuple[str, ...]:
        """The cells under ``HEADS``."""
        shares = (f"{x:.0%}" for x in (self.cut, self.left_out, self.bounds))
        agreement = f"{self.agreement:+.2f} ± {_SURE * self.error:.2f}"
        heard = (f"{self.at_first:+.2f}", agreement, f"{self.ratio:.2f}")
        return (str(self.level.number), self.level.name, *heard, *shares)


def figures(run: RunView) -> Iterator[Figures]:
    """The figures of the levels whose signals were compared."""
    for level in run.levels:
        cosines = run.trace.series(level.number, "signal_cosine")[1]
        if slot_of(level)[0] == TASK or not len(cosines):
            continue
        cut, left_out = (level.spent.get(f"{act}_total", 0.0) for act in ("bounded", "skipped"))
        made = max(1.0, level.spent.get("steps", len(cosines)))
        own = [one.at_end() for one in moved(run) if one.by == level]
        yield Figures(level, cosines, cut / made, left_out / (made + left_out), sum(own) / max(1, len(own)))
