"""A verdict on a run, and what to change."""

from __future__ import annotations

from dataclasses import dataclass

from .moved import TASK, Moved, in_a_circle, slot_of
from .view import LevelView, RunView

RATES = ("lr", "rate", "kappa", "scale", "sigma", "step")
"""Names of hyperparameters that steps are proportional to."""
USUAL = 0.05
"""A usual step of a logarithm."""


@dataclass(frozen=True)
class Verdict:
    """Something that went wrong.

    Attributes:
        kind: a word for it.
        level: from 1; ``name``: its strategy's slot; ``step``: of the task, from which on.
        text: what happened, with figures; ``remedy``: what to change, a command or a setting. Both without a full stop.
    """

    kind: str
    level: int
    name: str
    step: int
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"Level {self.level} ({self.name}), from step {self.step:,}: {self.text}. To change: {self.remedy}."


def of(level: LevelView, kind: str, step: int, text: str, remedy: str) -> Verdict:
    """A verdict on ``level``."""
    return Verdict(kind, level.number, level.name, int(step), text, remedy)


def first_mover(run: RunView) -> LevelView:
    """The first level that moves the task."""
    return next((level for level in run.levels if slot_of(level)[0] == TASK), run.levels[0])


def rated(level: LevelView, factor: float) -> str:
    """The setting that multiplies a level's rate; another strategy where it has none."""
    key = next((key for key in RATES if key in level.start), None)
    if key is None:
        return f"give level {level.number} a strategy with a rate"
    return f"--set {level.name}.{key}={float(f'{level.start[key] * factor:.1g}'):g}"


def tuned(run: RunView, level: LevelView, factor: float) -> str:
    """A level above that tunes a rate which nothing tunes; else the setting that multiplies it."""
    if len(run.levels) > 1 or "lr" not in level.start:
        return rated(level, factor)
    return f"let a level tune the rate: {_command(run, run.about.get('stack', '') + '/adagrad')}"


def _command(run: RunView, stack: str) -> str:
    return f"recopt run '{run.about.get('task', 'TASK')}' '{stack}'"


def without(run: RunView, level: LevelView) -> str:
    """Leaving a level out; the command for it where the level is the last of a stack."""
    stack, _, last = run.about.get("stack", "").rpartition("/")
    plain = stack and level.number == len(run.levels) and "+" not in last
    return f"leave level {level.number} out{f': {_command(run, stack)}' if plain else ''}"


def instead(run: RunView, level: LevelView, other: str = "adam") -> str:
    """Another strategy for a level; the command for it in a stack, which ends there."""
    stack = run.about.get("stack", "").split("/")
    plain = len(stack) == len(run.levels)
    shorter = f": {_command(run, '/'.join([*stack[: level.number - 1], other]))}" if plain else ""
    return f"put {other} in the place of {level.name} at level {level.number}{shorter}"


def apart(run: RunView, level: LevelView) -> str | None:
    """The end of a circle that ``level`` is in; None if it is in none."""
    circle = in_a_circle(run, level)
    if [one.number for one in circle] == [level.number]:
        return instead(run, level)
    return without(run, max([level, *circle], key=lambda one: one.number)) if circle else None


def calmer(run: RunView, one: Moved) -> str:
    """A change that keeps a level from moving ``one`` that far."""
    if ends := apart(run, one.by):
        return ends
    at, sizes = run.trace.series(one.by.number, "update_norm")
    far = one.far()
    largest = float(sizes[: max(1, int((at <= (far or 0)).sum()))].max(initial=0.0))
    return rated(one.by, USUAL / largest if largest > 2 * USUAL else 0.1)


def reason(run: RunView, level: LevelView) -> str:
    """The reason why a level moves something too far, where the graph tells it."""
    circle = [one.number for one in in_a_circle(run, level)]
    if circle == [level.number]:
        return "; it moves itself, so its steps change what they are measured by"
    if circle:
        both = " and ".join(map(str, sorted({level.number, *circle})))
        return f"; levels {both} move each other, so each changes what the other is measured by"
    return ""
