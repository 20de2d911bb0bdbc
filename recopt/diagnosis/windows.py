"""Figures on the windows of levels that were examined (``examine``), and faults that they tell of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..tracking.thinning import Floats
from .signals import HEADS, figures
from .verdict import Verdict, of
from .view import LevelView, RunView

WINDOW_HEADS = ("level", "strategy", "window", "T and 2T agree", "radius", "over a window")
_LEAST = 3
"""Examinations that tell something."""
_GROWTH, _TOO_FAR = 10.0, 1e3
"""What an unroll may stretch a change by over a window, and what from which its gradients are taken for chaos."""


@dataclass(frozen=True)
class Windows:
    """The examinations of one level.

    Attributes:
        agreement: cosines of the hypergradients of windows of T and 2T steps, shape (n,).
        radius: spectral radii of the step that the window unrolls; empty where it is none of the task.
        length: T, at the last of them.
        first: the step of the first.
    """

    level: LevelView
    agreement: Floats
    radius: Floats
    length: int
    first: int

    @property
    @np.errstate(all="ignore")
    def growth(self) -> float:
        """The median radius to the power T: how far a window stretches a small change; NaN without radii."""
        return float(np.power(np.median(self.radius), self.length)) if len(self.radius) else math.nan

    def row(self) -> tuple[str, ...]:
        """The cells under ``WINDOW_HEADS``."""
        agreement = f"{self.agreement.mean():+.2f} ({len(self.agreement):,})" if len(self.agreement) else ""
        radius = (f"{np.median(self.radius):.3f}", f"×{self.growth:.3g}") if len(self.radius) else ("", "")
        return (str(self.level.number), self.level.name, f"{self.length:,}", agreement, *radius)


def windows(run: RunView) -> Iterator[Windows]:
    """The examinations of the levels that had any."""
    for level in run.levels:
        steps, lengths = run.trace.series(level.number, "window")
        if len(steps) and math.isfinite(lengths[-1]):
            agreement, radius = (run.trace.series(level.number, key)[1] for key in ("window_agreement", "radius"))
            good = radius[np.isfinite(radius) & (np.abs(radius) < 1e6)]
            cosines = agreement[np.abs(agreement) <= 1 + 1e-6]
            yield Windows(level, cosines, good, max(1, int(abs(lengths[-1]) % 1e9)), int(steps[0]))


Cells = tuple[str, ...]


def signal_tables(run: RunView) -> list[tuple[str, Cells, list[Cells]]]:
    """Title, heads and rows of the tables on signals: how they follow each other, and what examinations found."""
    found = (
        ("Signals that follow each other", HEADS, [one.row() for one in figures(run)]),
        ("Windows of T and 2T steps", WINDOW_HEADS, [one.row() for one in windows(run)]),
    )
    return [one for one in found if one[2]]


def unfit_windows(run: RunView) -> Iterator[Verdict]:
    """Windows that pull another way than longer ones, and exact unrolls through steps that stretch too far."""
    for found in windows(run):
        level, cosines = found.level, found.agreement
        few = len(cosines) < _LEAST or "chosen" in level.how
        if not few and cosines.mean() + 2 * cosines.std() / math.sqrt(len(cosines)) < 0:
            text = f"windows of {found.length:,} and {2 * found.length:,} steps pull apart: mean cosine " \
                   f"{cosines.mean():+.2f} over {len(cosines):,} examinations"  # fmt: skip
            remedy = f"--set level{level.number}.every={2 * found.length}"
            yield of(level, "short-sighted", found.first, text, remedy)
        exact = level.how.startswith("unroll") and "dropped" not in level.how
        if exact and len(found.radius) >= _LEAST and found.growth > _TOO_FAR:
            one = float(np.median(found.radius))
            text = f"the step that it unrolls stretches changes by ×{one:.3g}, a window of {found.length:,} by " \
                   f"×{found.growth:.2g} (spectral radius, median of {len(found.radius):,})"  # fmt: skip
            shorter = max(1, int(math.log(_GROWTH) / math.log(one)))
            other = "pes" if "episodes" in level.how else "es"
            remedy = f"--set level{level.number}.every={shorter}, or level{level.number}.gradient={other}"
            yield of(level, "chaotic", found.first, text, remedy)
