"""The trials of a sweep, from the answers in its journal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..search.journal import Entry
from .conduct import Conduct
from .result import SweptTrial
from .schedule import Part


def trial_of(conduct: Conduct, number: int, over: bool = True) -> SweptTrial:
    """Trial ``number`` (from 0) as far as it got. ``over``: what has paused by then has been stopped."""
    plan, found = conduct.plan, list[tuple[Part, list[Entry]]]()
    for rung in range(len(plan.rungs)):
        part = Part(number, rung)
        if len(entries := conduct.entries(part)) == plan.spec.repeat:
            found.append((part, entries))
    settings = plan.schedule.trials[number]
    if not found:
        return SweptTrial(number + 1, settings, math.nan, math.nan, 0, "waiting", {}, {}, 0.0)
    part, entries = found[-1]
    good = [entry for entry in entries if not entry.failure]
    scores = [entry.found["figures"][plan.spec.score] for entry in good]
    whole = len(good) == len(entries)
    step = max((entry.found["step"] for entry in good), default=0)
    curve = [(max(entry.found["step"] for entry in own), plan.sign * conduct.loss(at)) for at, own in found
             if math.isfinite(conduct.loss(at))]  # fmt: skip
    outcome, origin = _outcome(entries, over), plan.schedule.origins.get(number)
    if outcome == "stopped" and number in plan.schedule.origins.values():
        outcome = "went on"
    return SweptTrial(
        number + 1, settings, math.fsum(scores) / len(scores) if whole else math.nan,
        statistics.stdev(scores) if whole and len(scores) > 1 and all(map(math.isfinite, scores)) else math.nan, step,
        outcome, _means([entry.found["test"] for entry in good]) if whole else {},
        good[0].found["hyperparameters"] if good else {},
        math.fsum(e.found["seconds"] for _, own in found for e in own if not e.failure), curve,
        next((entry.failure.message for entry in entries if entry.failure), ""), None if origin is None else origin + 1,
    )  # fmt: skip


def updates(conduct: Conduct) -> tuple[int, int]:
    """The updates that all runs made, and those of as many whole runs."""
    furthest, origins = dict[tuple[int, int], int](), conduct.plan.schedule.origins
    for key, entry in conduct.journal.entries.items():
        step = 0 if entry.failure else int(entry.found["step"])
        furthest[key.trial, key.repeat] = max(step, furthest.get((key.trial, key.repeat), 0))
    made = sum(step - furthest.get((origins.get(trial, -1), repeat), 0) for (trial, repeat), step in furthest.items())
    return made, max(made, len(furthest) * conduct.plan.rungs[-1])


def _outcome(entries: Sequence[Entry], over: bool) -> str:
    """The worst outcome of the runs of a trial."""
    found = ["failed" if entry.failure else str(entry.found["outcome"]) for entry in entries]
    worst = next((one for one in ("failed", "diverged", "frozen", "paused") if one in found), "finished")
    return worst if worst != "paused" else "stopped" if over else "waiting"


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: math.fsum(one[key] for one in found) / len(found) for key in found[0]} if found else {}
