"""A run that goes on with other levels: what both have in common is kept, and the rest starts afresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..levels.level import INIT, TASK, Level
from ..levels.parts import Part
from ..levels.state import LevelState, Numbers, RunState
from .engine import Engine, copied
from .measure import settled

Same = Callable[[str, str], bool]
"""True if a hyperparameter (slot, name) was given the same value in both."""


def carry(old: Engine, new: Engine, same: Same) -> None:
    """Let ``new`` go on from where ``old`` is.

    The task's slot is kept, with its position in the data, and so are the guard's memory and the random numbers. So is,
    of each strategy that both have by name and class, the value of what was given alike; and of each level that moves
    the same by the same, the strategy's state, if it has the same form. Windows and trials that were open are dropped.

    Raises:
        RecoptError: if the two have models of other shapes.
    """
    with old.stream:
        state = copied(settled(old, strictly=True))
    if [p.shape for p in state.task.params] != [p.shape for p in new.state.task.params]:
        raise RecoptError("A trial cannot go on from another's model, which has other shapes: leave that setting out.")
    slots = {TASK: state.task, **{name: new.state.slots[name] for name in new.graph.slots}}
    made = RunState(slots, new.state.levels, [None] * len(new.levels), step=state.step, rng=state.rng)
    made.resets = [TASK] if INIT in slots else []  # its episode began elsewhere
    if state.guard is not None:
        made.guard = replace(state.guard, checks={}, sizeless=None)
    for name in new.graph.slots.keys() & old.graph.slots.keys():
        if type(new.graph.slots[name]) is type(old.graph.slots[name]):
            _carry_slot(old, new, state, name, same)
    for number, level in enumerate(new.levels):
        for before, other in enumerate(old.levels):
            if _moves_alike(old, new, other, level):
                _carry_level(new, made, number, state.levels[before], other)
                break
    with new.stream:
        new.go(made)
        new.clean, new.replay = new.copy(), 0
    for number, spent in enumerate(old.budget.levels):
        new.budget.spend(number if number < len(new.levels) else 0, **asdict(spent))


def _moves_alike(old: Engine, new: Engine, one: Level, other: Level) -> bool:
    """True if two levels move the same parameters of the same by strategies of one class."""
    if (one.moves, one.by, one.only) != (other.moves, other.by, other.only):
        return False
    names = [one.by] if one.moves == TASK else [one.by, one.moves]
    return all(type(old.graph.slots[name]) is type(new.graph.slots[name]) for name in names)


def _carry_slot(old: Engine, new: Engine, state: RunState, name: str, same: Same) -> None:
    """Keep the values in a strategy's slot of what was given alike."""
    before, after = state.slots[name], new.state.slots[name]
    values = dict(zip(old.graph.names[name], before.params, strict=True))
    kept = {i: values[n] for i, n in enumerate(new.graph.names[name]) if n in values and same(name, n)}
    kept = {i: value.detach() for i, value in kept.items() if value.shape == after.params[i].shape}
    if isinstance(after, Numbers):
        new.tower.carriers.spaces[name].put(after, list(kept), [float(value) for value in kept.values()])
    else:
        for i, value in kept.items():
            after.params[i] = value.to(after.params[i])
    after.draw, after.age, after.seen = before.draw, before.age, before.seen


def _carry_level(new: Engine, made: RunState, number: int, before: LevelState, was: Level) -> None:
    """Keep the state of a level's strategy, part by part, if it has the form that a fresh one has."""
    own, level, count = made.levels[number], new.levels[number], len(new.tower.slots.index(made, number))
    parts = list[Part]()
    for part in before.parts:
        if max(part.indices, default=0) >= count:
            return
        fresh = new.tower.beginnings.state_at(made, number, part.indices)
        if _form(fresh) != _form(part.strategy):
            return
        held = Part(part.indices, part.strategy)
        if level.normalize == was.normalize:
            held.normal = part.normal
        if level.average == was.average:
            held.mean, held.folds = part.mean, part.folds
        parts.append(held)
    if parts:
        own.parts, own.steps, own.counts = trees.detach(parts), before.steps, dict(before.counts)
    if len(own.rng) == len(before.rng):
        own.rng = before.rng


def _form(tree: Any) -> Any:
    """A tree with shapes in the place of tensors, and classes in that of other leaves."""
    if isinstance(tree, dict):
        return {key: _form(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_form(value) for value in tree]
    return tuple(tree.shape) if isinstance(tree, Tensor) else type(tree)
