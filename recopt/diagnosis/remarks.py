"""Remarks on a recorded run, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .view import RunView

_TENTH = 0.1
_MUCH = 0.05
"""A change of the loss, relative, from which it is called one."""
_FEW = 20
"""Fewer losses than these say nothing of a trend."""


def diagnosis(run: RunView) -> list[str]:
    """Remarks for the reader, in sentences; each has the figures that it rests on."""
    found = [*_end(run), *_guard(run), *_trend(run), *_held_out(run), *_levels(run)]
    return found or ["Nothing unusual: no guard acted, and the loss has settled."]


def _end(run: RunView) -> Iterator[str]:
    losses = run.trace.series(0, "loss")[1]
    if run.status == "interrupted":
        yield "The run was interrupted before its last step; recopt run --resume goes on from there."
    if run.status == "failed":
        why = f" with {run.error}" if run.error else ""
        yield f"The run failed{why}. The whole error is in traceback.txt beside this page."
    if not len(losses):
        return
    if not np.isfinite(losses[-1]):
        yield "The training loss ended as a number that is not finite: it diverged. Lower the first learning rate."
    elif abs(losses[-1]) > 10 * max(abs(losses[0]), 1e-12):
        yield f"The training loss rose from {losses[0]:.4g} to {losses[-1]:.4g}: it diverged."


def _guard(run: RunView) -> Iterator[str]:
    spent = {key: value for level in run.levels for key, value in level.spent.items() if value}
    acts = {"skipped_total": "skipped {} evaluations", "restored_total": "took {} updates back"}
    acted = [words.format(f"{spent[key]:,.0f}") for key, words in acts.items() if key in spent]
    if acted:
        yield f"The guard {' and '.join(acted)}: losses or gradients were not finite, or exploded."
    if "bounded_total" in spent:
        yield f"The guard shortened {spent['bounded_total']:,.0f} updates that were far too long."
    if spent.get("frozen_tasks"):
        yield "The task stands still: nearly all its last evaluations were bad, so it is no longer moved."


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
    if len(values) < 3 or not np.isfinite(values).any():
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
        own = [one for one in run.levels if one.name == level.moves]
        if not own:  # it moves the task
            continue
        if level.spent.get("steps") == 0:
            yield f"Level {level.number} ({level.name}) made no step: the run is shorter than one of its windows."
            continue
        signal = run.trace.series(level.number, "signal_norm")[1]
        if len(signal) and not signal.any():
            yield f"Level {level.number} ({level.name}) had no signal: its norm was 0 throughout."
        trials = run.trace.series(level.number, "accepted")[1]
        if len(trials):
            yield (
                f"Level {level.number} ({level.name}) accepted {int((trials > 0).sum()):,} of {len(trials):,} trials."
            )
        for key, start in own[0].start.items():
            end = own[0].end.get(key, start)
            if start > 0 and end > 0 and not 0.1 < end / start < 10:
                far = f"from {start:.3g} to {end:.3g}, ×{end / start:.3g}"
                yield f"Level {level.number} ({level.name}) moved {own[0].name}'s {key} {far}."
