"""The schedules that a run found: the ways of the hyperparameters that its levels moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..contracts.domains import Domain
from ..engine.engine import Engine
from ..levels.level import BILEVEL, TASK
from ..levels.structure import Structure
from ..rules.numbers import natural
from ..toolkit.schedule import Schedule, save_schedules
from ..tracking.thinning import Floats, Ints
from ..tracking.trace import Trace
from .result import hyperparameters_at

SCHEDULE = "schedule.safetensors"
_NEAR = 4
"""Floating-point neighbours of a coordinate among which the one is sought that gives a recorded value exactly."""


def write_schedules(engine: Engine, trace: Trace, folder: Path) -> None:
    """Write the schedules that a run found into ``folder``; nothing if it moved no hyperparameter that counts.

    Nor if there was one for each coordinate, of which the record has the middle alone.
    """
    if any(level.scope for level in engine.levels):
        return
    if found := found_schedules(engine, trace):
        save_schedules(found, folder / SCHEDULE, engine.state.step)


def found_schedules(engine: Engine, trace: Trace) -> dict[str, Schedule]:
    """By slot, the ways of the hyperparameters of strategies that :func:`staying` levels use, if they moved."""
    graph, found, kept = engine.graph, dict[str, Schedule](), staying(engine.graph)
    for slot in dict.fromkeys(graph.levels[n].by for n in kept):
        domains, movers = graph.slots[slot]._domains, [n for n in graph.movers[slot] if n not in kept]
        moved = {i for n in movers for i in graph.moved(n, graph.names[slot])}
        names = [name for i, name in enumerate(graph.names[slot]) if i in moved and name in domains]
        starts, values = _way(graph, trace, movers[0], names) if names else (np.empty(0, np.int64), [])
        first = hyperparameters_at(graph.slots[slot])
        ways = {
            name: column
            for name, column in zip(names, values, strict=True)
            if not np.isclose(column, first[name], rtol=1e-9, atol=0).all()
        }
        if ways:
            exact = partial(_float, engine.dtype) if slot not in engine.tower.carriers.spaces else _number
            coordinates = {name: _coordinates(domains[name], column, exact) for name, column in ways.items()}
            found[slot] = Schedule(torch.from_numpy(starts), coordinates, {name: repr(domains[name]) for name in ways})
    return found


def staying(graph: Structure) -> list[int]:
    """The levels (0-based) that a replay keeps: all but those that move hyperparameters only, and those above them."""
    kept = list(graph.movers[TASK])
    for number, level in enumerate(graph.levels):
        if level.moves != TASK and any(m in kept for m in graph.subjects[number]):
            names = graph.names.get(level.moves, [])
            domains = graph.slots[level.moves]._domains if level.moves in graph.slots else {}
            if level.moves in BILEVEL or any(names[i] not in domains for i in graph.moved(number, names)):
                kept.append(number)
    return sorted(kept)


def _way(graph: Structure, trace: Trace, mover: int, names: Sequence[str]) -> tuple[Ints, list[Floats]]:
    """The updates before each change of hyperparameters that level ``mover`` moves, and the values from there on."""
    user = graph.clock(mover)
    for number, level in enumerate(graph.levels):
        if graph.slots[level.by].keeps_members() and user in graph.below(number):
            return _lineage(trace, number, user, names)
    updates = trace.series(user + 1, "update_norm")[0]
    columns = [trace.series(user + 1, name) for name in names]
    return np.searchsorted(updates, columns[0][0]), [values for _, values in columns]


def _lineage(trace: Trace, number: int, user: int, names: Sequence[str]) -> tuple[Ints, list[Floats]]:
    """Likewise on the way to the member that level ``number`` chose last (see :func:`recopt.search.lineage.descent`).

    What came after that choice is left out.
    """
    ends, chosen = trace.series(number + 1, "chosen")
    member, parts = int(chosen[-1]) if len(chosen) else 0, list[tuple[int, Ints, list[Floats]]]()
    for window in reversed(range(len(ends))):
        steps, updates = trace.series(user + 1, f"member{member}.update")
        here = np.searchsorted(ends, steps, side="right") == window
        columns = [trace.series(user + 1, f"member{member}.{name}")[1][here] for name in names]
        count = int(trace.series(user + 1, f"member{member}.updates")[1][window])
        parts.append((count, updates[here].astype(np.int64), columns))
        member = int(trace.series(number + 1, f"member{member}.from")[1][window])
    done, starts = 0, [np.empty(0, np.int64)]
    values: list[list[Floats]] = [[np.empty(0)] for _ in names]
    for count, changes, columns in reversed(parts):
        starts.append(changes + done)
        for whole, part in zip(values, columns, strict=True):
            whole.append(part)
        done += count
    return np.concatenate(starts), [np.concatenate(whole) for whole in values]


def _coordinates(domain: Domain, values: Floats, exact: Callable[[Domain, float], float]) -> torch.Tensor:
    """Coordinates that give the recorded natural ``values`` again."""
    return torch.tensor([_coordinate(domain, value, exact) for value in values.tolist()], dtype=torch.float64)


def _coordinate(domain: Domain, value: float, exact: Callable[[Domain, float], float]) -> float:
    try:
        at = domain.coordinate(value) if domain.numeric else value
    except ValueError:  # rounded to an end
        low, high = domain.ends()
        return low if abs(exact(domain, low) - value) < abs(exact(domain, high) - value) else high
    below = above = at
    for _ in range(_NEAR):
        if exact(domain, below) == value:
            return below
        if exact(domain, above) == value:
            return above
        below, above = math.nextafter(below, -math.inf), math.nextafter(above, math.inf)
    return at


def _number(domain: Domain, coordinate: float) -> float:
    return natural(domain, coordinate)[0]


def _float(dtype: torch.dtype, domain: Domain, coordinate: float) -> float:
    return domain.natural(torch.tensor(coordinate, dtype=dtype)).item()
