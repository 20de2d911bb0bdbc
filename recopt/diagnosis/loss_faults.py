"""Faults that losses tell of: they are lost, explode, do not fall, or leave the task at chance."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .curve import FEW, Curve
from .moved import first_far
from .verdict import Verdict, calmer, first_mover, instead, of, rated, reason, tuned
from .view import LevelView, RunView

_CHANCE, _SURE = 0.05, 0.5
"""The rise of an accuracy that is one; an accuracy from which a start is not taken for chance."""
_VERY_FAR = 1000.0
"""A factor by which a rate has to be moved to be the reason why nothing was learned."""
_HARDLY, _WINDOWS = 0.9, 10
"""A meta-loss above this part of an untrained model's loss is hardly better; windows that it takes to tell."""
_DATA = "another strategy on level 1, such as adam; if that stays at chance too, the inputs may not tell the labels"


def losses(run: RunView) -> Iterator[Verdict]:
    """At most one verdict, on the training loss; where episodes start afresh, on the meta-loss over them."""
    curve = Curve(*run.trace.series(0, "loss"))
    taught = (level for level in run.levels if "episodes" in level.how and level.spent.get("steps") != 0)
    teacher = next(taught, None)
    level = first_mover(run)
    if (at := curve.lost) is not None:
        there = curve.values[(curve.steps < at) & np.isfinite(curve.values)]
        ways = f"{curve.start:.3g} at first, {there[-1]:.3g} before" if len(there) else "from the first on"
        remedy = None if "skipped_total" in level.spent else f"--set level{level.number}.guard=true"
        yield _blamed(run, "not finite", at, f"the training loss is not finite ({ways})", teacher, remedy)
    elif curve.exploded:
        text = f"the training loss rose from {curve.start:.3g} to {curve.end:.3g}"
        yield _blamed(run, "diverged", curve.above(curve.start), text, teacher)
    elif teacher is not None:
        yield from _taught(run, teacher, curve.start)
    elif not curve.fell:
        at, again = (curve.steps[0], "") if curve.turned is None else (curve.turned, " again, after it had fallen")
        text = f"the training loss is {curve.end:.3g} at the end{again}, and was {curve.start:.3g} at first"
        yield _blamed(run, "learned nothing", int(at), text, factor=0.1 if curve.end > 1.1 * curve.start else 100.0)
    elif len(curve.values) >= FEW and not curve.falls() and (text := _at_chance(run)):
        yield _blamed(run, "chance", int(curve.steps[0]), text, remedy=_DATA)


def _taught(run: RunView, teacher: LevelView, untrained: float) -> Iterator[Verdict]:
    """A verdict on the meta-loss of a level over episodes; ``untrained``: the loss of a model that is."""
    steps, values = run.trace.series(teacher.number, "meta_loss")
    curve = Curve(steps, values, settles=len(values) // 10)
    text = f"its meta-loss is {curve.end:.3g} at the end, and was {curve.start:.3g} at first"
    chance = _at_chance(run) if curve.end > _HARDLY * untrained and len(values) >= _WINDOWS else ""
    if chance or not curve.fell:
        kind, text = ("chance", f"{chance}; {text}") if chance else ("learned nothing", text)
        factor = 0.1 if curve.end > curve.start else 10
        yield of(teacher, kind, steps[0], f"{text}{reason(run, teacher)}", _another(run, teacher, factor))


def _another(run: RunView, teacher: LevelView, factor: float) -> str:
    """Adam in the place of what trains a rule, or another rate of it."""
    return rated(teacher, factor) if teacher.name.startswith("adam") else instead(run, teacher)


def _at_chance(run: RunView) -> str:
    """That an accuracy is no better than before the first step, in words; else empty."""
    accuracy = run.trace.series(0, "test_accuracy")[1]
    if len(accuracy) < 2 or accuracy[-1] >= min(accuracy[0] + _CHANCE, _SURE):
        return ""
    before = f"{accuracy[0]:.1%} before the first step"
    return f"the model is at chance: test accuracy is {accuracy[-1]:.1%} at the end and was {before}"


def _blamed(
    run: RunView, kind: str, at: int, text: str, teacher: LevelView | None = None, remedy: str | None = None,
    factor: float = 0.1,
) -> Verdict:  # fmt: skip
    """A verdict on the level that moved a hyperparameter far before; on a learned rule's teacher; else on the first.

    ``factor`` is for the first level's rate.
    """
    lost = kind in ("not finite", "diverged")
    found = first_far(run, at) if lost else first_far(run, factor=_VERY_FAR)
    if found is not None:
        one, step = found
        words = f"{one.way(at if lost else math.inf)}{reason(run, one.by)}; {text}"
        return of(one.by, kind, step, words, remedy or calmer(run, one))
    if teacher is not None:
        return of(teacher, kind, at, f"{text}{reason(run, teacher)}", _another(run, teacher, 0.1))
    level = first_mover(run)
    return of(level, kind, at, text, remedy or tuned(run, level, factor))
