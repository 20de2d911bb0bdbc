"""Faults of single levels: steps that are taken back, cut, or never made; signals of zero; values that went too far."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..tracking.thinning import Ints
from .curve import FEW
from .moved import TASK, Moved, moved, slot_of
from .signals import figures
from .verdict import RATES, USUAL, Verdict, calmer, first_mover, of, rated, reason, tuned, without
from .view import LevelView, RunView

_MOST = 0.5
"""The share of a level's steps from which the guard is said to rule it."""
_PATH = 0.01
"""The least way that a level makes a logarithm go in all of its steps, if it is to be worth its cost."""
_STILL = 1e-4
"""A model that moves by less than this part of its longest steps stands still."""
_LONGER = 20
"""Steps of a window whose mean is less noisy than a step."""
_WANDERS = 2.0
"""The extent of a random walk over the root of its summed squared steps; 1.6 is usual."""
_LED = math.log(2)
"""A net change that a level is to be thanked for."""
_SPELL = 5
"""Good steps that end a spell of bad ones."""
_SOLVED = 1e-6
"""A loss below this part of its first is as low as it gets."""


def frozen(run: RunView) -> Iterator[Verdict]:
    """A task that the guard lets stand still."""
    level = first_mover(run)
    if not level.spent.get("frozen_tasks"):
        return
    bad = run.trace.series(level.number, "skipped")[0]
    gaps = np.flatnonzero(np.diff(bad) > _SPELL)
    at = 0 if not len(bad) else bad[gaps[-1] + 1 if len(gaps) else 0]
    skipped, restored = (level.spent.get(f"{act}_total", 0.0) for act in ("skipped", "restored"))
    text = f"{skipped:,.0f} evaluations were skipped and {restored:,.0f} updates taken back by the guard"
    yield of(level, "frozen", at, f"{text}, so the model stands still", tuned(run, level, 0.1))


def at_bounds(run: RunView) -> Iterator[Verdict]:
    """Values at the ends of their ranges."""
    for one in moved(run):
        if one.at_end():
            there = one.ends()
            first = one.steps[np.flatnonzero(~there)[-1] + 1]
            text = f"{one.way()}, the end of its range{reason(run, one.by)}"
            yield of(one.by, "at its bound", first, text, calmer(run, one))


def vanished(run: RunView) -> Iterator[Verdict]:
    """Rates that levels lowered until the model stood still, before its loss was as low as it gets."""
    losses = run.trace.series(0, "loss")[1]
    for one in moved(run):
        if slot_of(one.user)[0] != TASK or one.key not in RATES or not one.values[-1] < _STILL * one.values.max():
            continue
        steps, sizes = run.trace.series(one.user.number, "update_norm")
        moving = np.flatnonzero(sizes > _STILL * sizes.max(initial=0))
        if not len(moving) or moving[-1] > 0.8 * len(sizes) or abs(losses[-1]) < _SOLVED * abs(losses[0]):
            continue
        peak = int(one.values.argmax())
        way = f"moved {one.name} from {one.values[peak]:.3g} to {one.values[-1]:.3g}"
        still = f"the model stands still from step {steps[moving[-1]]:,} on, at a loss of {losses[-1]:.3g}"
        yield of(one.by, "vanished", one.steps[peak], f"{way}, so {still}{reason(run, one.by)}", calmer(run, one))


def unheard(run: RunView) -> Iterator[Verdict]:
    """Levels that made no step, or had no signal."""
    for level in run.levels:
        task = slot_of(level)[0] == TASK
        steps, sizes = run.trace.series(level.number, "signal_norm")
        if level.spent.get("steps") == 0 and not task and run.status == "finished":
            shorter = max(1, len(run.trace.series(0, "loss")[0]) // 20)
            text = f"made no step: the run is shorter than one of its windows ({level.how})"
            what = "episode" if slot_of(level)[0] == "init" else "every"
            each = "" if "at every step" in level.how else f"--set level{level.number}.{what}={shorter}, or "
            yield of(level, "no step", 0, text, f"{each}more --steps")
        elif len(sizes) >= FEW and not sizes.any():
            text = f"no gradient reaches what it moves: its norm is 0 at all {len(sizes):,} steps"
            remedy = "the loss of the task has to depend on the model's parameters"
            yield of(level, "no signal", steps[0], text, remedy if task else without(run, level))


def idle(run: RunView) -> Iterator[Verdict]:
    """Levels whose steps lead nowhere."""
    for level in run.levels:
        steps, sizes = run.trace.series(level.number, "update_norm")
        signals = run.trace.series(level.number, "signal_norm")[1]
        if slot_of(level)[0] == TASK or len(sizes) < FEW or not signals.any() or not _logarithms(run, level):
            continue
        if (way := float(sizes.sum())) < _PATH:
            far = f"change {level.moves} by {way:.0e} of itself"
            text = f"moves next to nothing: its {len(sizes):,} steps together {far}"
            yield of(level, "idle", steps[0], text, rated(level, USUAL / max(np.median(sizes), 1e-30)))


def noise(run: RunView) -> Iterator[Verdict]:
    """Levels whose signals are noise, and whose values go no farther than such signals would make them."""
    for found in figures(run):
        own = [one for one in moved(run) if one.by == found.level]
        sizes = run.trace.series(found.level.number, "update_norm")[1]
        walk = math.sqrt(float((sizes**2).sum()) / max(1, len(own)))  # the length of a random walk of these steps
        if not found.silent or not own or sizes.sum() < _PATH or any(_led(one, walk) for one in own):
            continue
        chance = f"mean cosine {found.agreement:+.2f} ± {2 * found.error:.2f} over {len(found.cosines):,} steps"
        text = f"hears only noise: successive signals agree by chance ({chance}), and it {own[0].way()}, as noise would"
        at = run.trace.series(found.level.number, "signal_cosine")[0][0]
        yield of(found.level, "noise", at, text, f"--set level{found.level.number}.every={_LONGER}, or larger batches")


def _led(one: Moved, walk: float) -> bool:
    """True if a value went farther than a random walk of that length would take it, or far at all."""
    net, extent = one.wandered()
    return net > min(walk, _LED) or extent > _WANDERS * walk


def _logarithms(run: RunView, level: LevelView) -> bool:
    """True if a level's updates are known to be of logarithms: of what rates there are, and nothing else."""
    slot, only = slot_of(level)
    return any(one.name == slot and set(only or one.start) & set(RATES) for one in run.levels)


def taken_back(run: RunView) -> Iterator[Verdict]:
    """Levels most of whose steps were taken back, left out or cut."""
    for level in run.levels:
        task = slot_of(level)[0] == TASK
        made = level.spent.get("steps", 0.0) * (int(run.about.get("tasks", "1").replace(",", "")) if task else 1)
        acts = {act: level.spent.get(f"{act}_total", 0.0) for act in ("skipped", "restored", "bounded")}
        steps, sizes = run.trace.series(level.number, "update_norm")
        undone = run.trace.series(level.number, "null_step")[0]
        if task and made >= FEW and not level.spent.get("frozen_tasks") and acts["restored"] > _MOST * made:
            at = _first(run.trace.series(level.number, "restored")[0])
            text = f"{acts['restored']:,.0f} of its {made:,.0f} steps were taken back: the loss exploded after them"
            yield of(level, "taken back", at, text, tuned(run, level, 0.1))
        elif len(undone) >= FEW / 2 and len(undone) > 0.45 * made:  # a step back is a step too
            text = f"{len(undone):,} of its {made:,.0f} steps were steps back: the meta-loss rose after the one before"
            yield of(level, "taken back", undone[0], text, rated(level, 0.1))
        if not task and acts["skipped"] >= FEW and acts["skipped"] > _MOST * made:
            text = f"{acts['skipped']:,.0f} of its steps were left out: its signal or its answer was not finite"
            yield of(level, "left out", _first(steps), text, rated(level, 0.1))
        if not task and made >= FEW and acts["bounded"] > _MOST * made:
            text = f"{acts['bounded']:,.0f} of its {made:,.0f} steps were cut to a factor e by the guard"
            calm = rated(level, USUAL / max(1.0, float(np.median(sizes)) if len(sizes) else 1.0))
            yield of(level, "cut", _first(steps[sizes > 1 - 1e-6]), text, calm)


def _first(steps: Ints) -> int:
    """The first of some steps; 0 if there are none."""
    return int(steps[0]) if len(steps) else 0
