"""The options of :class:`recopt.Optimizer`, turned into a checked graph of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..checking.errors import RecoptError, unknown
from ..checking.explanations import explain
from ..contracts.settings import Hyper, Option, declared
from ..contracts.strategy import Strategy
from ..levels.graph import Graph
from ..levels.level import INIT, LOSS, TASK, Level
from ..levels.notation import Term, levels_of, parse
from ..stacks.build import make_strategy
from ..stacks.fetch import export_folder, fetch_export, is_reference, read_export
from ..stacks.listed import Listed, deepened, in_notation, layers_listed
from ..stacks.named import Named, strategies_of, written
from ..stacks.places import Places, shipped_folder
from ..stacks.plugins import load_strategy

Stack = str | Path | Listed | None
"""None: ``DEFAULT_STACK``."""
DEFAULT_STACK = "paced"
"""Knob-free: Adam whose rate follows from the weights' size, the way from the start and the run's length (see docs)."""
_SETTABLE = ("scope", "every", "normalize", "objective", "only", "on", "trust", "gradient", "average")
_OBJECTIVES = ("mean", "sum", "last")


def located(stack: Stack, store: str | Path | None) -> Stack:
    """``stack``, or the folder of the export that it refers to in an MLflow store (``runs:/…``, ``models:/…``).

    Raises:
        RecoptError: if the reference names nothing, or no export, or ``store`` does not answer.
    """
    stack = in_notation(stack)
    return fetch_export(stack, store) if isinstance(stack, str) and is_reference(stack) else stack


def layers_of(stack: Stack, depth: int | None) -> tuple[list[list[Term]], dict[str, Strategy]]:
    """The layers of a stack, and the strategies that are made already (the user's, or those of an export), by slot.

    Raises:
        RecoptError: for a stack that is not in the notation, a folder that is no export, or a depth below its height.
    """
    own: dict[str, Strategy] = {}
    folder = export_folder(stack) if isinstance(stack, str | Path) else None
    if folder is not None:
        levels, own = read_export(folder)
        # What was learned moves the task; the levels that taught it stay behind.
        layers = [[Term(x.by, x.by, only=x.only) for x in levels if x.moves == TASK]]
        own = {term.slot: own[term.slot] for term in layers[0]}
        if len(own) == 1 and len(layers[0]) == 1:  # called by the export's name, as one that is given by name
            slot = folder.resolve().name.replace("-", "_")
            layers, own = [[Term(slot, slot)]], {slot: own[layers[0][0].slot]}
    elif stack is None or isinstance(stack, str | Path):
        layers = parse(DEFAULT_STACK if stack is None else str(stack))
    else:
        layers, own = layers_listed(stack)
    if depth is None:
        return layers, own
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < len(layers):
        raise RecoptError(f"depth={depth!r} must be a whole number of at least {len(layers)}, the stack's height.")
    return deepened(layers, own, depth)


@dataclass(frozen=True)
class Options:
    """Options that all towers of an optimizer share.

    Attributes:
        depth: height to which the last strategy is repeated.
        normalize: for every level above the first, where ``levels`` says nothing.
        every: for level 2, where ``levels`` says nothing.
        levels: per level (1 is innermost), what :class:`recopt.levels.level.Level` takes.
        guard: whether guards act.
        fused: whether closed forms are used.
        seed: of what strategies draw.
        average: of the levels of the model, where ``levels`` says nothing (see ``recopt.levels.level.Level``).
        plugins: folders and files that strategies are searched in first.
        coordinates: whether the rules of level 1 have hyperparameters for each coordinate.
    """

    depth: int | None
    normalize: str | None
    every: int | None
    levels: Mapping[int, Mapping[str, Any]]
    guard: bool
    fused: bool
    seed: int
    average: bool | float = False
    plugins: Places = ()
    coordinates: bool = False


def check_options(options: Options, *, maximize: object, callback: object, log_every: object) -> None:
    """Raise RecoptError, with the name and what it must be, for what is of another kind."""
    for name, value in (("guard", options.guard), ("fused", options.fused), ("maximize", maximize)):
        if not isinstance(value, bool):
            raise RecoptError(f"{name}={value!r} must be True or False.")
    for name, value in (("log_every", log_every), ("every", options.every)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RecoptError(f"{name}={value!r} must be a whole number of at least 1.")
    if isinstance(options.seed, bool) or not isinstance(options.seed, int) or not 0 <= options.seed < 2**53:
        raise RecoptError(f"seed={options.seed!r} must be a whole number from 0 to 2**53.")
    places = [options.plugins] if isinstance(options.plugins, str | Path) else options.plugins
    if not isinstance(places, Sequence) or not all(isinstance(place, str | Path) for place in places):
        raise RecoptError(
            f"plugins={options.plugins!r} must be a folder or a .py file with strategies, or a list of them."
        )
    average = options.average
    if not isinstance(average, int | float) or not 0 <= average < float("inf"):
        raise RecoptError(f"average={average!r} must be True, False or the decay of the mean, a number of at least 0.")
    if callback is not None and not callable(callback):
        raise RecoptError(f"callback={callback!r} must be a function of the step's number and the hyperparameters.")
    levels = options.levels
    numbered = isinstance(levels, Mapping) and all(isinstance(n, int) for n in levels)
    if not numbered or not all(isinstance(x, Mapping) for x in levels.values()):
        raise RecoptError(f"levels={levels!r} must read like {{2: {{'every': 5}}}}: settings by the level's number.")


def check_steps(steps: object) -> int | None:
    """The length of a run. Raises RecoptError if it is no whole number of at least 1, or None."""
    if steps is None:
        return None
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise RecoptError(
            f"steps={steps!r} must be the number of opt.step() calls of the run, at least 1, or left out."
        )
    return steps


def graph_of(stack: Stack, names: Sequence[str], options: Options, overrides: Mapping[str, Any]) -> Graph:
    """The graph of a stack over parameters ``names``.

    Args:
        overrides: settings of the strategies of level 1 (``lr=0.1``), before those in the stack.

    Raises:
        RecoptError: for anything unknown or impossible, with the place and the remedy.
    """
    layers, own = layers_of(stack, options.depth)
    slots: dict[str, Strategy] = {}
    for number, layer in enumerate(layers):
        for term in layer:
            if term.slot in slots:
                continue
            extra = dict(overrides) if number == 0 else {}
            if term.slot in own and extra:
                raise RecoptError(
                    f"{min(extra)} belongs to a strategy that is made already: give it where you made that; an export "
                    "takes settings where it is given by its name."
                )
            slots[term.slot] = own.get(term.slot) or _made(term, extra, options, stack)
    found = levels_of(layers, {label: [n for n, _ in s.named_parameters()] for label, s in slots.items()})
    if any(level.moves == LOSS for level in found):
        raise RecoptError(
            "'loss:' moves parameters of a task's loss, and recopt.Optimizer sees gradients only: write a task with "
            "loss_parameters() and give it to recopt.run, or put the parameters into the model."
        )
    if any(level.moves == INIT for level in found):
        raise RecoptError(
            "'init:' moves the point that a task's episodes start from, and recopt.Optimizer cannot start a model "
            "afresh: give the task to recopt.run."
        )
    for number in options.levels:
        if not 1 <= number <= len(found):
            raise RecoptError(f"levels={{{number}: …}}: this stack has levels 1 to {len(found)}.")
    found = [_set(level, number, options) for number, level in enumerate(found, 1)]
    if options.coordinates:
        found = _apart(found)
    graph = Graph(found, slots, labels=_labels(layers))
    graph.check_task(names)
    graph.levels = [_settled(graph, number, options.guard) for number in range(len(graph.levels))]
    return graph


def settable(stack: Stack, plugins: Places) -> frozenset[str]:
    """Names of what the strategies of level 1 can be given."""
    layers, own = layers_of(stack, None)
    places = _searched(stack, plugins)
    kinds = [type(own[t.slot]) if t.slot in own else load_strategy(t.name, *places) for t in layers[0]]
    return frozenset(name for kind in kinds for setting in (Hyper, Option) for name in declared(kind, setting))


def _searched(stack: Stack, plugins: Places) -> tuple[Places, str]:
    """The places that a stack's strategies are searched in first, and how messages name it."""
    # The default is of the shipped strategies, whatever there is elsewhere.
    return [str(shipped_folder("strategies"))] if stack is None else plugins, (
        f"in '{stack}'" if isinstance(stack, str) else "in the stack"
    )


def _made(term: Term, extra: Mapping[str, Any], options: Options, stack: Stack) -> Strategy:
    """The strategy of a term, its initial weights drawn as a run with this seed draws them."""
    settings = {**term.settings, **extra}
    domains = settings.pop("domains", None) or {}
    if not isinstance(domains, Mapping) or not all(isinstance(d, str) for pair in domains.items() for d in pair):
        raise RecoptError(f"domains={domains!r} must read like {{'lr': 'positive'}}: domains by the setting's name.")
    named = Named(name=term.name, domains=dict(domains), settings=settings)
    return make_strategy(term.slot, named, options.seed, *_searched(stack, options.plugins))


def _labels(layers: Sequence[Sequence[Term]]) -> dict[str, str]:
    """Each strategy in notation, by slot; without the labels that were made of name and depth."""
    each = [(term, f"{term.name.replace('-', '_')}{depth}") for depth, layer in enumerate(layers, 1) for term in layer]
    made = {term.slot: term.name.replace("-", "_") for term, label in each if term.slot == label}
    return {slot: written(made.get(slot, slot), one) for slot, one in strategies_of(layers).items()}


def _set(level: Level, number: int, options: Options) -> Level:
    given, normalize, every = dict(options.levels.get(number, {})), options.normalize, options.every
    for key in given:
        if key not in _SETTABLE:
            raise unknown("setting", key, _SETTABLE, f"in levels={{{number}: …}}")
    if given.get("on") == "valid":
        raise RecoptError(f"levels={{{number}: …}}, on: pass held-out losses to opt.step(valid_loss=…) instead.")
    if level.moves == TASK and "trust" in given:
        raise RecoptError(f"levels={{{number}: …}}, trust: it bounds levels above the first only.")
    if level.moves == TASK:
        given.setdefault("average", options.average)
    if level.moves != TASK and normalize is not None:
        given.setdefault("normalize", normalize)
    if number == 2 and every is not None:
        given.setdefault("every", every)
    try:
        return Level.model_validate({**level.model_dump(exclude_none=True), **given})
    except ValidationError as why:
        raise RecoptError(f"In levels={{{number}: …}}: {explain(why, {})}") from None


def _apart(levels: list[Level]) -> list[Level]:
    """The levels with numbers for each coordinate where they move those of the rules of level 1."""
    first = {level.by for level in levels if level.moves == TASK}
    if not any(level.moves in first for level in levels):
        raise RecoptError(
            "scope='coordinate' needs a level over the first one that moves its numbers: give 'sgd/adagrad'."
        )
    return [x.model_copy(update={"scope": "coordinate"}) if x.moves in first else x for x in levels]


def _settled(graph: Graph, number: int, guard: bool) -> Level:
    """The level as the drop-in runs it: a real run goes on, so what says when to start afresh falls away."""
    level = graph.levels[number]
    if level.perturbs:
        raise RecoptError(f"Level {number + 1}: gradient={level.gradient} goes back to score each of its points, which "
                          "a loop that is not recopt's cannot: use recopt.run, or leave it out.")  # fmt: skip
    if level.longest is not None:
        raise RecoptError(f"Level {number + 1}: every=auto goes back to compare windows, which a loop that is not "
                          "recopt's cannot: use recopt.run, or give a number.")  # fmt: skip
    if level.second_order:
        raise RecoptError(f"Level {number + 1}: recopt.Optimizer drops second derivatives; use recopt.run for them.")
    if level.objective not in _OBJECTIVES:
        known = ", ".join(_OBJECTIVES)
        raise RecoptError(f"Level {number + 1}: objective={level.objective} needs recopt.run; here: {known}.")
    if level.schedule != "constant":
        raise RecoptError(f"Level {number + 1}: instead of schedule={level.schedule} use a torch.optim.lr_scheduler.")
    if level.average is not None and not graph.order(number):
        raise RecoptError(f"Level {number + 1}: '{level.by}' is zero-order, which keeps no mean here: drop average.")
    above = [n for n in range(len(graph.levels)) if number in graph.subjects[n]]
    if len({graph.levels[n].every for n in above}) > 1:
        raise RecoptError(f"The levels over level {number + 1} step at different times: give them the same 'every'.")
    return level.model_copy(update={"episode": None, "guard": level.guard and guard})
