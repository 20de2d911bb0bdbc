"""A recorded run in sentences: what went wrong, and remarks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .moved import moved
from .verdicts import verdicts
from .view import LevelView, RunView

_TENTH = 0.1
_MUCH = 0.05
"""A change of the loss, relative, from which it is called one."""
_GATE = ("compared", "won", "rolled_back", "odds")
"""The numbers that a gate tells."""
_FEW = 20
"""Fewer losses than these say nothing of a trend."""


@np.errstate(all="ignore")
def diagnosis(run: RunView) -> list[str]:
    """All that there is to say of a run: how it ended, what went wrong, and remarks, in sentences."""
    found = [*_end(run), *map(str, verdicts(run)), *_unusual(run)]
    return found or ["Nothing unusual: no guard acted, and the loss has settled."]


@np.errstate(all="ignore")
def remarks(run: RunView) -> list[str]:
    """Sentences on a run's end and on what is unusual in it though not wrong, with the figures that they rest on."""
    return [*_end(run), *_unusual(run)]


def _unusual(run: RunView) -> list[str]:
    return [*_guard(run), *_trend(run), *_held_out(run), *_levels(run)]


def _end(run: RunView) -> Iterator[str]:
    if run.status == "interrupted":
        yield "The run was interrupted before its last step; recopt run --resume goes on from there."
    if run.status == "failed":
        why = f" with {run.error}" if run.error else ""
        yield f"The run failed{why}. The whole error is in the run's traceback.txt."


def _guard(run: RunView) -> Iterator[str]:
    spent = {key: value for level in run.levels for key, value in level.spent.items() if value}
    acts = {"skipped_total": "skipped {} evaluations", "restored_total": "took {} updates back"}
    acted = [words.format(f"{spent[key]:,.0f}") for key, words in acts.items() if key in spent]
    if acted:
        yield f"The guard {' and '.join(acted)}: losses or gradients were not finite, or exploded."
    if "bounded_total" in spent:
        yield f"The guard shortened {spent['bounded_total']:,.0f} updates that were far too long."


def _trend(run: RunView) -> Iterator[str]:
    losses = run.trace.series(0, "loss")[1]
    losses = losses[np.isfinite(losses)]
    if len(losses) < _FEW:
        return
    tenth = max(2, int(_TENTH * len(losses)))
    last, before = float(losses[-tenth:].mean()), float(losses[-2 * tenth : -tenth].mean())
    spread = float(losses[-2 * tenth :].std()) / math.sqrt(tenth)
    if before > 0 and abs(last - before) > max(_MUCH * before, 2 * spread):
        way = "fell" if last < before else "rose"
        more = f": {_further(run)}" if last < before else ""
        yield f"The training loss still {way} by {abs(last / before - 1):.0%} over the last tenth of the run{more}."


def _further(run: RunView) -> str:
    """The promise of more steps, where the training loss still falls."""
    values = run.trace.series(0, "valid_loss")[1]
    early, late = values[: len(values) // 2], values[len(values) // 2 :]
    if len(early) > 1 and np.isfinite(values).all() and late.min() > early.min() - _MUCH * abs(early.min()):
        return "more steps should lower it further, but the held-out loss stopped falling in the first half"
    return "more steps should lower it further"


def _held_out(run: RunView) -> Iterator[str]:
    steps, values = run.trace.series(0, "valid_loss")
    afresh = any("episodes" in level.how for level in run.levels)  # then no model is trained throughout
    if afresh or len(values) < 3 or not np.isfinite(values).any():
        return
    best = int(np.nanargmin(np.where(np.isfinite(values), values, np.inf)))
    at, losses = run.trace.series(0, "loss")
    near = losses[(at > steps[best] - _FEW) & (at <= steps[best] + _FEW)]
    if not len(near) or not losses[-_FEW:].mean() < near.mean():  # the training loss rose too
        return
    if best < len(values) - 1 and values[-1] > (1 + _MUCH) * values[best] > 0:
        yield (
            f"The held-out loss was lowest at step {steps[best]:,} ({values[best]:.4g}) and ended at {values[-1]:.4g}: "
            "the model learns its training data by heart. Fewer steps, or weight decay, may help."
        )


def _levels(run: RunView) -> Iterator[str]:
    for level in run.levels:
        trials = run.trace.series(level.number, "accepted")[1]
        told = [run.trace.series(level.number, f"{level.name}.{key}")[1] for key in _GATE]
        if all(map(len, told)):
            yield _gate(level, *(float(values[-1]) for values in told))
        elif len(trials):
            yield (
                f"Level {level.number} ({level.name}) accepted {int((trials > 0).sum()):,} of {len(trials):,} trials."
            )
    for one in moved(run):
        begin, end = one.user.start[one.key], one.user.end.get(one.key, one.values[-1])
        if begin > 0 and end > 0 and not 0.1 < end / begin < 10:
            far = f"from {begin:.3g} to {end:.3g}, ×{end / begin:.3g}"
            yield f"Level {one.by.number} ({one.by.name}) moved {one.user.name}'s {one.key} {far}."


def _gate(level: LevelView, compared: float, won: float, back: float, odds: float) -> str:
    counts = f"won {won:,.0f} of {compared:,.0f} comparisons, took {back:,.0f} windows back"
    return f"Level {level.number} ({level.name}) {counts}, and ended with odds of {odds:.3g} that opening pays."
