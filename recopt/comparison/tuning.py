"""Tuning of baselines: the same number of trials for each, on tasks that are not test tasks.

A trial is one setting of all tuned hyperparameters, scored by the mean over the tuning tasks. The first third of the
trials scans the whole range of the learning rate, with the other hyperparameters at their usual values and the two
schedules in turn. The other trials change some coordinates of the best setting so far, within a box that shrinks from
half a decade of the learning rate, and half the range of the others, to a tenth of that. All trials use the same
tasks, starts and batches. The best setting is then run on the test tasks, so no reported figure is the best of several
noisy values.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..checking.errors import RecoptError, unknown
from ..contracts.settings import Hyper, declared
from ..levels.level import Schedule
from ..levels.notation import parse_one
from ..search.ranges import RANGES
from ..stacks.named import Named
from ..stacks.plugins import load_strategy
from .competitors import Competitor, TuningTrial, rule

SCHEDULE = "schedule"
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine")
_EDGE = 0.02
_REACH = {"lr": 0.08}
"""Initial half width of the search box, as a share of the range; 0.5 for hyperparameters not listed."""
_SHRINKS = 0.1
_SOME = 0.6
_FLIP = 0.4


KNOWN: dict[str, tuple[Named, tuple[str, ...]]] = {
    "sgd": (Named(name="sgd"), ("lr", SCHEDULE)),
    "momentum": (Named(name="sgd", settings={"momentum": 0.9}), ("lr", "momentum", SCHEDULE)),
    "nesterov": (Named(name="sgd", settings={"momentum": 0.9, "nesterov": True}), ("lr", "momentum", SCHEDULE)),
    "rmsprop": (Named(name="rmsprop"), ("lr", "alpha", SCHEDULE)),
    "adam": (Named(name="adam"), ("lr", "beta1", "beta2", SCHEDULE)),
    "adamw": (Named(name="adam"), ("lr", "beta1", "beta2", "weight_decay", SCHEDULE)),
}
"""Named baselines, with the hyperparameters that are tuned by default."""


@dataclass(frozen=True)
class Baseline:
    """A rule to tune: its ``text``, and the names that are ``tuned`` (keys of ``RANGES``, and ``schedule``)."""

    text: str
    rule: Named
    tuned: tuple[str, ...]
    schedule: Schedule = "constant"
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name among the competitors; the prefix tells it from the same rule as an untuned stack."""
        return f"tuned {self.text}"

    @property
    def axes(self) -> tuple[str, ...]:
        """The tuned hyperparameters, without ``schedule``."""
        return tuple(name for name in self.tuned if name != SCHEDULE)

    def usual(self, name: str) -> float:
        """The position of a hyperparameter's usual value in its range, in [0, 1]."""
        default = declared(load_strategy(self.rule.name, self.plugins), Hyper)[name].default
        return RANGES[name].unit(float(self.rule.settings.get(name, default)))

    def competitor(self, values: Mapping[str, Any], steps: int, guards: bool) -> Competitor:
        """The rule with these ``values`` of the tuned hyperparameters."""
        settings = {**self.rule.settings, **{key: values[key] for key in self.axes}}
        named = self.rule.model_copy(update={"settings": settings})
        return rule(self.name, named, steps, values.get(SCHEDULE, self.schedule), guards, self.plugins)


def baseline(text: str, plugins: Sequence[str] = ()) -> Baseline:
    """Parse a baseline: ``adam``, ``sgd(momentum=0.9)[lr]``, ``adam(schedule=cosine)[lr]``.

    The names in brackets are tuned; without brackets, those of ``KNOWN`` that are not set here.

    Raises:
        RecoptError: for an unknown rule or hyperparameter, or one that cannot be tuned.
    """
    refusal = RecoptError(f"'{text}' should name one baseline, like adam or adam(beta1=0.8)[lr,schedule].")
    term = parse_one(text, refusal)
    schedule = term.settings.get(SCHEDULE, "constant")
    if schedule not in SCHEDULES:
        raise unknown("schedule", str(schedule), SCHEDULES, f"in baseline '{text}'")
    given = {key: value for key, value in term.settings.items() if key != SCHEDULE}
    known, usual = KNOWN.get(term.name, (Named(name=term.name), None))
    made = load_strategy(known.name, plugins, f"in baseline '{text}'")
    if made.order == 0 or made.learned:
        raise RecoptError(f"'{term.name}' cannot be tuned as a baseline: give it as a stack.")
    hypers = [name for name in RANGES if name in declared(made, Hyper)]
    tuned = term.only or tuple(n for n in usual or ("lr", SCHEDULE) if n not in term.settings)
    for name in tuned:
        if name not in (*hypers, SCHEDULE):
            raise unknown("hyperparameter", name, [*hypers, SCHEDULE], f"to tune in baseline '{text}'")
    named = Named(name=known.name, settings={**known.settings, **given})
    if not tuned:
        raise RecoptError(f"Nothing is left to tune in baseline '{text}': give it as a stack.")
    found = Baseline(text, named, tuned, schedule, tuple(plugins))
    found.competitor({name: RANGES[name].value(0.5) for name in found.axes}, 1, False)  # raises for unknown settings
    return found


def tune(
    base: Baseline, trials: int, steps: int, seed: int, tasks: int, guards: bool = False
) -> Generator[list[Competitor], list[float], Competitor]:
    """Tune ``base`` by ``trials`` trials, each on ``tasks`` tasks of ``steps`` updates.

    Yields settings that may be tried side by side, is sent their scores, and returns the best.
    """
    search, found = TuningSearch(base, trials, seed), list[TuningTrial]()
    while len(found) < trials:
        batch = [search.next(number, found) for number in range(len(found), search.known(len(found)))]
        settings = [
            {**{n: RANGES[n].value(u) for n, u in zip(base.axes, units, strict=True)}, SCHEDULE: schedule}
            for units, schedule in batch
        ]
        scores = yield [base.competitor(values, steps, guards) for values in settings]
        found += [TuningTrial(v, units, x) for v, (units, _), x in zip(settings, batch, scores, strict=True)]
    best = min(found, key=lambda trial: trial.score)
    ends = [name for name, u in zip(base.axes, best.units, strict=True) if not _EDGE <= u <= 1 - _EDGE]
    notes = tuple(f"The best {name} lies at an end of its range." for name in ends)
    made = base.competitor(best.values, steps, guards)
    return replace(made, prepared=trials * tasks * steps, notes=notes, trials=found)


class TuningSearch:
    """Proposes settings: first over the whole range of learning rates, then ever closer to the best."""

    def __init__(self, base: Baseline, trials: int, seed: int) -> None:
        self._base, self._trials, self._wide = base, trials, max(1, math.ceil(trials / 3))
        self._rng = np.random.default_rng([seed, *base.text.encode()])
        self._free = SCHEDULE in base.tuned
        self._reach = np.array([_REACH.get(name, 0.5) for name in base.axes])

    def known(self, number: int) -> int:
        """The end of the trials from ``number`` on that do not depend on each other's scores."""
        return max(min(self._wide, self._trials), number + 1)

    def next(self, number: int, found: Sequence[TuningTrial]) -> tuple[tuple[float, ...], Schedule]:
        """The next setting to try: its position in the ranges, and its schedule."""
        if number < self._wide:
            return self._scan(number)
        best = min(found, key=lambda trial: trial.score)
        far = (number - self._wide) / max(1, self._trials - self._wide - 1)
        count = len(best.units)
        some = self._rng.random(count) < _SOME
        if count:
            some[self._rng.integers(count)] = True
        step = self._reach * _SHRINKS**far * self._rng.uniform(-1, 1, count)
        moved, schedule = np.array(best.units) + some * step, best.values[SCHEDULE]
        if self._free and self._rng.random() < _FLIP * (1 - far):
            schedule = SCHEDULES[1 - SCHEDULES.index(schedule)]
            if "lr" in self._base.axes:
                # A cosine schedule has mean 1/2, so twice the rate gives the same total step.
                double = math.log(2) / math.log(RANGES["lr"].high / RANGES["lr"].low)
                moved[self._base.axes.index("lr")] += double if schedule == "cosine" else -double
        return tuple(float(u) for u in np.clip(moved, 0, 1)), schedule

    def _scan(self, number: int) -> tuple[tuple[float, ...], Schedule]:
        """A grid over the learning rate with the rest at usual values; over all ranges if it is not tuned."""
        axes, middle = self._base.axes, (number + 0.5) / self._wide
        units = [middle if name == "lr" or "lr" not in axes else self._base.usual(name) for name in axes]
        return tuple(units), SCHEDULES[number % 2] if self._free else self._base.schedule
