"""The plan of a sweep: its spec, checked before anything runs, and what follows from it."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..checking.errors import Notice, RecoptError, shown, unknown
from ..contracts.strategy import Strategy
from ..levels.level import TASK
from ..levels.notation import parse_one
from ..running.plan import Plan
from ..search.halving import rungs
from ..search.proposals import Search, Settings, Space, drawn, grid, members, searched
from ..search.ranges import Axis, axis
from ..stacks.build import make_strategy
from ..stacks.named import Named
from .schedule import Batches, Halved, Rounds, Schedule
from .sweep_spec import GRID, RANDOM, SweepSpec
from .trial import FIELDS, FIGURES, trial_plan

WIDE = ("task", "stack", "depth")
"""The fields that decide which other settings there are."""
TRIALS = 40
"""Trials of a sweep that does not say how many."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that is ready to start.

    Attributes:
        first: the plan of its first trial.
        axes: what it goes over.
        schedule: the order of its parts.
        rungs: the steps to which trials are run, of ``asha`` or of rounds of members; one, the whole run, without.
        sign: −1 if the greatest score is the best, else 1.
    """

    spec: SweepSpec
    first: Plan
    axes: Sequence[Axis]
    schedule: Schedule
    rungs: Sequence[int]
    sign: float


def plan_sweep(spec: SweepSpec, where: str = "the spec") -> SweepPlan:
    """Check a sweep.

    Every choice is planned, and both ends of every range, each with every stack and task.

    Raises:
        RecoptError: for what cannot work, before anything runs.
    """
    axes = [axis(name, values) for name, values in spec.over.items()]
    plans = _checked(spec, axes, where)
    first = next(iter(plans.values()))
    # A plugin that has changed when the sweep goes on is told of, as a run's is.
    digests = {key: value for plan in plans.values() for key, value in plan.spec.digests.items()}
    spec = spec.model_copy(update={"run": {**spec.run, **({"digests": digests} if digests else {})}})
    by = _strategy(spec)
    if by is not None and by.keeps_members():
        _check_members(axes, spec)
    sign, levels = _sign(spec, plans.values()), _rungs(spec, first, by, axes)
    return SweepPlan(spec, first, axes, _schedule(spec, _space(axes, plans), by, len(levels)), levels, sign)


def _checked(spec: SweepSpec, axes: Sequence[Axis], where: str) -> dict[tuple[Any, ...], Plan]:
    """The plans of all stacks, tasks and depths by their values, after checks of all other values with each."""
    wide, rest = [one for one in axes if one.name in WIDE], [one for one in axes if one.name not in WIDE]
    for one in rest:
        if "." not in one.name and one.name not in FIELDS:
            raise unknown("setting", one.name, [*FIELDS, "adam.lr", "level2.every", "task.batch_size"], "in 'over'")
    if ranged := [one.name for one in wide if one.range]:
        raise RecoptError(f"'{ranged[0]}' is searched over a list: give its values, like [a, b].")
    plans, idle = dict[tuple[Any, ...], Plan](), {one.name for one in rest}
    for values in itertools.product(*(one.choices for one in wide)):
        base = dict(zip((one.name for one in wide), values, strict=True))
        made = plans[values] = trial_plan(spec.run, base, spec.seed, where)
        for one in rest:
            if _applies(one.name, made):
                idle.discard(one.name)
                _tell_overruled(one, made)
                for value in one.ends:
                    trial_plan(spec.run, {**base, one.name: value}, spec.seed, where)
    for one in rest:
        if one.name in idle:  # this says what there is
            trial_plan(spec.run, {**base, one.name: one.ends[0]}, spec.seed, where)
    return plans


def _tell_overruled(one: Axis, plan: Plan) -> None:
    """Say that a strategy was given a value which no trial has."""
    slot, _, key = one.name.partition(".")
    named = plan.spec.strategies.get(slot)
    if named is None or key not in named.settings or key in plan.graph.strides.get(slot, {}):
        return
    given, ends = named.settings[key], one.ends
    if not (isinstance(given, int | float) and ends[0] <= given <= ends[-1] if one.range else given in ends):
        said = f"'{one.name}' is {shown(given)} in the stack, and no trial has that, since the sweep goes over others"
        warnings.warn(f"{said}: leave it out there, or add it to them.", Notice, stacklevel=2)


def _applies(name: str, plan: Plan) -> bool:
    """True if a run has the setting: a slot of its own, or a level."""
    slot, dot, _ = name.partition(".")
    level = re.fullmatch(r"level(\d{1,6})", slot)
    if level:
        return 1 <= int(level[1]) <= len(plan.spec.levels)
    return not dot or slot in (TASK, *plan.spec.strategies)


def _space(axes: Sequence[Axis], plans: Mapping[tuple[Any, ...], Plan]) -> Space:
    """The settings that can be tried: those of a strategy or level only with the stacks that have it."""
    wide = [one.name for one in axes if one.name in WIDE]

    def fitting(settings: Settings) -> Settings:
        plan = plans[tuple(settings[name] for name in wide)]
        return {name: value for name, value in settings.items() if _applies(name, plan)}

    return Space(axes, fitting)


def _schedule(spec: SweepSpec, space: Space, by: Strategy | None, levels: int) -> Schedule:
    if by is not None and by.keeps_members():
        return Rounds(members(by, space, levels, spec.seed))
    search = _search(spec, space, by)
    if spec.asha is None:
        schedule = Batches(search)
        if not schedule.trials:
            raise RecoptError(
                f"'{spec.by}' tries more than {spec.trials} settings at its first step: give more 'trials'."
            )
        return schedule
    return Halved(next(search), levels, spec.asha.eta, spec.asha.at_once)


def _check_members(axes: Sequence[Axis], spec: SweepSpec) -> None:
    """Refuse settings with which a run cannot go on."""
    for one in axes:
        if one.name in ("task", "tasks", "dtype", "steps"):
            raise RecoptError(
                f"By '{shown(spec.by)}' trials go on from each other, for which '{one.name}' has to be the same: leave "
                "it out of 'over'."
            )
        if one.name.startswith(f"{TASK}."):
            made = [trial_plan(spec.run, {one.name: value}, spec.seed).task.model() for value in one.ends]
            if len({tuple(tuple(p.shape) for p in model.parameters()) for model in made}) > 1:
                raise RecoptError(
                    f"By '{shown(spec.by)}' trials go on from each other's models, and '{one.name}' changes their "
                    "shapes: leave it out of 'over'."
                )


def _search(spec: SweepSpec, space: Space, by: Strategy | None) -> Search:
    if spec.by == GRID:
        if ranged := [one.name for one in space.axes if one.range]:
            raise RecoptError(
                f"A grid needs values: say how many '{ranged[0]}' has, like LOW..HIGH in 5, or list them."
            )
        if spec.trials is not None:
            raise RecoptError("A grid has as many trials as it has settings: leave 'trials' out, or search by random.")
        return grid(space)
    count = spec.trials or TRIALS
    if spec.by == RANDOM:
        return drawn(space, count, spec.seed)
    assert by is not None
    return searched(by, space, count, spec.seed)


def _strategy(spec: SweepSpec) -> Strategy | None:
    """The strategy that proposes trials; None for a grid and random ones. Raises RecoptError if it is none for that."""
    if spec.by in (GRID, RANDOM):
        return None
    if spec.asha is not None:
        raise RecoptError(
            f"'asha' stops trials that are known beforehand, by grid or random, not by '{shown(spec.by)}'."
        )
    refusal = RecoptError(
        f"'by' should be grid, random or a zero-order strategy, like annealing, not '{shown(spec.by)}'."
    )
    term = parse_one(spec.by, refusal)
    named = Named(name=term.name, settings=term.settings)
    strategy = make_strategy(
        "by", named, spec.seed, spec.run.get("plugins") or (), f"in 'by' ({GRID} and {RANDOM} too)"
    )
    if strategy.order or strategy.paired or term.only:
        raise refusal
    return strategy


def _rungs(spec: SweepSpec, first: Plan, by: Strategy | None, axes: Sequence[Axis]) -> list[int]:
    steps, asha = first.spec.steps, spec.asha
    if by is not None and by.keeps_members():
        point = [torch.zeros((), dtype=torch.float64) for _ in axes]
        count = len(by.propose(point, by.init(point), torch.Generator().manual_seed(0)))
        rounds = (spec.trials or TRIALS) // count
        if not 2 <= rounds <= steps:
            raise RecoptError(
                f"By '{shown(spec.by)}' {count} trials are a round, so {spec.trials or TRIALS} are {rounds} rounds: "
                f"'trials' should make two at least, and no more than the run has steps ({steps:,})."
            )
        return [steps * (n + 1) // rounds for n in range(rounds)]
    if asha is None:
        return [steps]
    if "steps" in spec.over:
        raise RecoptError("'asha' compares trials of the same number of steps: leave 'steps' out of 'over'.")
    found = rungs(steps, asha.first or max(1, steps // asha.eta**3), asha.eta)
    if len(found) < 2:
        raise RecoptError(
            f"'asha' has no rung before the end: its 'first' should be {steps // asha.eta} of {steps} steps at most."
        )
    return found


def _sign(spec: SweepSpec, plans: Iterable[Plan]) -> float:
    """−1 if the greatest score is the best, else 1. Raises RecoptError for a score that a run does not have."""
    signs = set[float]()
    for plan in plans:
        metric = plan.task.metric
        known = [name for name in FIGURES if name != "choose_score" or plan.spec.choose]
        if spec.score not in (*known, metric):
            raise unknown("score", spec.score, [*known, *([metric] if metric else [])])
        signs.add(-1.0 if spec.score == metric and plan.task.higher_is_better else 1.0)
    if len(signs) > 1:
        raise RecoptError(
            f"The '{spec.score}' of one task is best where it is least, and that of another where greatest."
        )
    return signs.pop()
