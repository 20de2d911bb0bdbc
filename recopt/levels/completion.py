"""Defaults for all that a level leaves open: its strategy's, those of the strategy that it moves, and of all levels."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from ..checking.errors import RecoptError, unknown
from ..contracts.domains import Positive
from ..contracts.settings import Hyper, Option, declared, plain_name
from ..contracts.strategy import Strategy
from . import cosines
from .carried import carries
from .level import BILEVEL, IMPLICIT, LOSS, TASK, Level
from .notices import WITHOUT
from .structure import Structure

RATE = "lr"
"""What a strategy's learning rate is called."""
POPULATION = "population"
"""The option of a strategy that a level's setting of that name is for."""
SLOWER = 0.2
"""The default rate of a level over that of the level which it moves, where both move rates of others."""
LEAST = 1e-300
"""The least such rate, of a level some 400 high."""
WINDOW_TO_REST = 20
"""Steps of the level below that are to lead near a stationary point, where nothing else is said."""
SOLVING = {"solver": "cg", "iterations": 20, "tolerance": 1e-8}
"""The defaults of what solves for an implicit hypergradient."""
WINDOW_OF_VALUES = 100
"""Task evaluations over which a level scores a trial, where nothing else is said."""
WISHES = ("window", WITHOUT)
"""What a strategy's ``above`` may say besides a level's settings: evaluations of a trial, and a notice."""
SIGMA, SIGMA_OF_WEIGHTS, PAIRS = 0.1, 0.01, 10
"""Perturbations of coordinates of hyperparameters, and of what a learned rule or a model holds; pairs of them."""


def complete(graph: Structure, number: int) -> Level:
    """Level ``number`` (0-based) with what it leaves open filled in; the levels below it are complete already."""
    level = graph.levels[number]
    by = graph.slots[level.by]
    beneath = {} if level.moves in (TASK, *BILEVEL) else _wishes(graph.slots[level.moves], "above")
    given = level.model_dump(exclude_none=True, exclude=None if level.only else {"only"}) | _population(by)
    open_: dict[str, Any] = beneath | _wishes(by, "level")
    if by.order == 0:
        open_ = {k: v for k, v in open_.items() if k not in ("gradient", "second_order", "normalize", "every")}
    settings = {**{k: v for k, v in open_.items() if k in Level.model_fields}, **given}
    if level.moves == TASK:
        fixed = {"every": 1, "gradient": "direct" if by.order else "value"}
        base = {**fixed, "second_order": False, "normalize": settings.get("normalize", "none")}
        return Level(**{**base, "objective": "mean", "on": "train", **given})
    perturbs = Level(moves=level.moves, by=level.by, gradient=settings.get("gradient")).perturbs
    default: dict[str, Any] = {"objective": "mean", "on": "train", "second_order": False}
    default |= _of_a_signal(graph, number, settings) if by.order and not perturbs else _of_trials(graph, number, open_)
    if level.moves in BILEVEL:
        order = 0 if perturbs else by.order
        own, free = _of_a_loss(level, order) if level.moves == LOSS else _of_a_start(level, order)
        default |= own
        settings = {k: v for k, v in settings.items() if k not in free or k in given}
    if carries(Level(moves=level.moves, by=level.by, gradient=settings.get("gradient"))):
        settings["second_order"] = given.get("second_order", True)
    if by.order and (level.moves == level.by or any(graph.levels[m].moves == level.by for m in graph.below(number))):
        default["trust"] = 0.01  # it closes a circle
    if "normalize" not in given and settings.get("normalize") == "cosine" and cosines.tied(graph, number, settings):
        # Of one number a cosine is a sign; the product of those beneath is none, and its steps need no other bound.
        settings = {"trust": None, **settings, "normalize": "cosines"}
    settings = {**default, **settings}
    if not level.only and _rate_alone(graph, number, settings):
        settings["only"] = (RATE,)
    whole = settings["every"]
    if longest := settings.get("longest"):
        whole, settings["every"] = _chosen_windows(graph.title(number), whole, longest, level.every)
    if level.episode is None and settings.get("episode"):
        # Nobody chose this length: the nearest that holds whole windows, usual ones where their length is to be chosen.
        settings["episode"] = whole * max(1, round(settings["episode"] / whole))
    return Level(**settings)


def _chosen_windows(title: str, usual: int, longest: int, first: int | None) -> tuple[int, int]:
    """The length of windows that episodes hold, and the first one, where the engine chooses from 1 to ``longest``."""
    if first is not None and (first & (first - 1) or first > longest):
        near = sorted({min(_power_of_two(first), longest), min(2 * _power_of_two(first), longest)})
        raise RecoptError(
            f"Level{title.removeprefix('level')}: windows double and halve up to longest={longest}, so they "
            f"cannot begin with every={first}: give {' or '.join(map(str, near))}, or leave 'longest' out."
        )
    return min(_power_of_two(usual), longest), first or 1


def _power_of_two(length: int) -> int:
    """The largest one that is not above ``length``."""
    return 1 << length.bit_length() - 1


def _of_a_signal(graph: Structure, number: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a level that differentiates."""
    online = settings.get("every", 1) == 1 and not settings.get("second_order")
    normalize = "rms_all" if _tuned(graph, number) else "rms"
    return {"gradient": "online" if online else "unroll", "normalize": normalize, "every": 1}


def _of_trials(graph: Structure, number: int, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a level that tries points."""
    span = max(1, graph.evaluations(graph.clock(number))) if graph.subjects[number] else 1
    every = max(1, round(wishes.get("window", WINDOW_OF_VALUES) / span))
    if graph.order(number) == 0:
        return {"gradient": "value", "normalize": "none", "every": every}
    tuned = _tuned(graph, number)
    noise = {"sigma": SIGMA if tuned else SIGMA_OF_WEIGHTS, "pairs": PAIRS}
    return {**noise, "normalize": "rms_all" if tuned else "rms", "every": every}


def _of_a_loss(level: Level, order: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The defaults of a level that moves a loss, and the wishes of strategies that they go before.

    A loss acts on held-out losses by second derivatives alone.
    """
    if not order:
        return {"on": "valid"}, ()
    if level.gradient == IMPLICIT:
        return {"on": "valid", "every": WINDOW_TO_REST, "objective": "last", **SOLVING}, ("second_order", "objective")
    return {"on": "valid", "gradient": "unroll", "second_order": True}, ("gradient", "second_order")


def _of_a_start(level: Level, order: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The defaults of a level that moves the start of episodes, each one of its windows; and what they go before."""
    found: dict[str, Any] = {"on": "valid", "objective": "last", "normalize": "none"}
    found |= {"every": level.episode} if level.episode else {}
    along = {"gradient": "unroll", "second_order": level.gradient in (None, "unroll")} if order else {}
    return found | along | (SOLVING if level.gradient == IMPLICIT else {}), ("every",)


def _population(by: Strategy) -> dict[str, Any]:
    size = by._options.get(POPULATION)
    return {POPULATION: size} if size else {}  # 0 is left to the strategy, by the number of what it moves


def populated(graph: Structure, number: int) -> Strategy:
    """The strategy of level ``number`` (0-based), a copy with the level's ``population`` if that asks for one.

    Raises:
        RecoptError: if the strategy leaves nothing to choose, or was given another one.
    """
    level = graph.levels[number]
    strategy, asked = graph.slots[level.by], level.population
    if asked is None or asked == getattr(strategy, POPULATION, None):
        return strategy
    if POPULATION not in declared(type(strategy), Option):
        raise RecoptError(f"Level{graph.title(number).removeprefix('level')}: '{level.by}' scores as many points as it "
                          f"does: drop 'population', or take evolution or random-search, which have one.")  # fmt: skip
    if POPULATION in strategy._made_with:
        raise RecoptError(f"Level{graph.title(number).removeprefix('level')}: its population is {asked}, but "
                          f"'{level.by}' was given {strategy.population}: say it once.")  # fmt: skip
    like = type(strategy)(**{**strategy._made_with, POPULATION: asked})  # which may refuse it
    made = copy.deepcopy(strategy)
    made._options, made._made_with = like._options, like._made_with
    return made


def _wishes(strategy: Strategy, attribute: str) -> dict[str, Any]:
    """The settings that a strategy's class asks of a level. Raises RecoptError for what no level has."""
    asked, whose = getattr(strategy, attribute), f"{plain_name(type(strategy))}.{attribute}"
    known = [key for key in Level.model_fields if key not in ("moves", "by")]
    if not isinstance(asked, Mapping):
        raise RecoptError(f"{whose} must be a dict of settings of a level, not {asked!r}.")
    for key, value in asked.items():
        if key not in (*WISHES, *known):
            raise unknown("setting", key, [*known, *WISHES], f"in {whose}")
        if key not in WISHES:
            try:
                Level.model_validate({"moves": TASK, "by": "it", key: value})
            except ValidationError as why:
                raise RecoptError(f"{whose}: {key}={value!r} will not do ({why.errors()[0]['msg']}).") from None
    return dict(asked)


def _tuned(graph: Structure, number: int) -> bool:
    """True if the slot that the level moves holds hyperparameters only, and no weights of a learned rule."""
    if graph.levels[number].moves in BILEVEL:
        return False
    beneath = graph.slots[graph.levels[number].moves]
    return {n for n, p in beneath.named_parameters() if p.requires_grad} <= set(beneath._domains)


def _rate_alone(graph: Structure, number: int, settings: dict[str, Any]) -> bool:
    """True if the level is to move the learning rate and leave the other hyperparameters alone.

    With second derivatives dropped and signals normalized coordinate by coordinate, what is left of the others'
    signals is noise of the size of the rate's own, and no run was seen in which following it helped (see
    docs/reference/optimizer.md, "What a level above moves"). ``only: ["*"]`` moves them all.
    """
    level = graph.levels[number]
    if level.moves in BILEVEL:
        return False
    beneath = graph.slots[level.moves]
    moved = [n for n, p in beneath.named_parameters() if p.requires_grad]
    others = [m for m, other in enumerate(graph.levels) if m != number and other.moves == level.moves]
    exact = graph.order(number) == 0 or settings["second_order"] or "pairs" in settings
    plain = not exact and settings["normalize"] != "none" and not others
    return plain and RATE in moved and _tuned(graph, number)


def strides(graph: Structure) -> dict[str, dict[str, float]]:
    """By slot, the hyperparameters that nobody gave and that have another default where their strategy stands.

    Those of strategies that one holds are among its own, by the name of their parameter (``rules.1.lr``).

    A step of a model's weights and a step of a learning rate's logarithm, on a signal whose size is 1, are lengths
    of different things. So a rule whose ``lr`` has a default ``above`` starts from that, where all that it moves
    are logarithms of hyperparameters, on normalized signals; SLOWER times that for each further level that stands
    between it and the task's own. A level that changes another faster than that one changes its own optimizee drives
    it up: Adam over Adam, eight levels high, ended with rates of 1e5 on level 3 and a model that stood still.
    """
    found: dict[str, dict[str, float]] = {}
    for slot, strategy in graph.slots.items():
        open_ = {
            f"{place}{name}": hyper.above
            for place, own in held(strategy)
            for name, hyper in declared(type(own), Hyper).items()
            if hyper.above is not None and _is_left_open(own, name)
        }
        where = [n for n, level in enumerate(graph.levels) if level.by == slot]  # nowhere: it only teaches
        if open_ and where and all(_moves_logarithms(graph, n) for n in where):
            slower = SLOWER ** (min(_height(graph, n) for n in where) - 1)
            found[slot] = {name: float(f"{max(value * slower, LEAST):.6g}") for name, value in open_.items()}
    return found


def held(strategy: Strategy) -> list[tuple[str, Strategy]]:
    """The strategy itself and those that it holds, each with the prefix of its parameters' names."""
    return [(f"{n}." if n else "", own) for n, own in strategy.named_modules() if isinstance(own, Strategy)]


def usual(strategy: Strategy) -> dict[str, float]:
    """The coordinates of the defaults of a strategy's smooth hyperparameters, by name.

    Those in domains that were given for them are not among them, nor those that are off by default.
    """
    given = strategy._made_with.get("domains") or {}
    return {
        name: strategy._domains[name].coordinate(hyper.default)
        for name, hyper in declared(type(strategy), Hyper).items()
        if strategy._parameters.get(name) is not None and name not in given
        if strategy._domains[name].smooth and hyper.default != hyper.off
    }


def _height(graph: Structure, number: int) -> int:
    """Levels from the one that moves the task, which has height 0, up to level ``number``."""
    height = 0
    while graph.subjects[number]:
        number, height = graph.subjects[number][0], height + 1
    return height


def _is_left_open(strategy: Strategy, name: str) -> bool:
    given, hyper = strategy._made_with, declared(type(strategy), Hyper)[name]
    if name in given or name in (given.get("domains") or {}) or not strategy.on(name):
        return False
    now = strategy._parameters[name]
    return now is not None and math.isclose(
        now.item(), strategy._domains[name].coordinate(hyper.default), rel_tol=1e-12
    )


def _moves_logarithms(graph: Structure, number: int) -> bool:
    level = graph.levels[number]
    if level.moves in (TASK, *BILEVEL) or level.normalize in (None, "none"):
        return False
    beneath, names = graph.slots[level.moves], graph.names[level.moves]
    return all(type(beneath._domains.get(names[i])) is Positive for i in graph.moved(number, names))


def set_to(strategy: Strategy, values: dict[str, float]) -> Strategy:
    """A copy of ``strategy``, as if it had been made with ``values``."""
    made = copy.deepcopy(strategy)
    coordinates = dict(made.named_parameters())
    for place, own in held(made):
        mine = {name.removeprefix(place): x for name, x in values.items() if name.rpartition(".")[0] == place[:-1]}
        own._made_with = {**own._made_with, **mine}
        with torch.no_grad():
            for name, value in mine.items():
                coordinates[place + name].fill_(own._domains[name].coordinate(value))
    return made
