"""Parts of a run's state that belong to its tasks: joined from the processes that hold them, and divided again.

What is not of a task is the same in every process. Everything of tasks has them along the leading dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..checking.digests import digest
from ..checking.errors import RecoptError
from ..contracts import trees
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.seeds import mix
from ..levels.state import LevelState, RunState, Signal, Window
from ..ranks.shared import Ranks

Join = Callable[[list[Any]], Any]
"""Makes one of what several states hold of their tasks: a tree with a leading dimension, or a list over tasks."""


def common(state: RunState, ranks: Ranks) -> list[tuple[int, int, dict[str, Any]]]:
    """The record of all tasks, of that of this process: means over all.

    Raises:
        RecoptError: if what tasks share is not the same in all processes.
    """
    shared = [slot.params for name, slot in state.slots.items() if name != TASK]
    held = [t.detach().reshape(-1).view(torch.uint8).cpu().numpy() for t in trees.tensors(shared)]
    ranks.same([len(state.log), int(digest((str(n), each) for n, each in enumerate(held))[:15], 16)],
               f"At step {state.step:,} the processes of this run hold different values of "
               f"{' or '.join(sorted(state.slots.keys() - {TASK}))}")  # fmt: skip
    known = {(n, key): value for n, (_, _, values) in enumerate(state.log) for key, value in values.items()}
    found = ranks.means({place: float(value) for place, value in known.items()})
    return [(level, step, {key: found[n, key] for key in values}) for n, (level, step, values) in enumerate(state.log)]


def check_draws(state: RunState, graph: Graph, draws: Sequence[bool], seed: int) -> None:
    """Refuse strategies that have drawn for one task after the other: each process would draw the same.

    Args:
        draws: by level, whether its strategy may draw.
        seed: of the run.
    """
    for number in (n for n in graph.movers[TASK] if draws[n]):
        if not torch.equal(state.levels[number].rng, Generator().manual_seed(mix(seed, 2, number)).get_state()):
            raise RecoptError(
                f"Level {number + 1}: '{graph.levels[number].by}' draws random numbers for one task after the other, "
                "which processes cannot do each for itself: run it in one process."
            )


def joined(states: Sequence[RunState], graph: Graph) -> RunState:
    """The state of a run with all of its tasks, from those of its processes by rank; also of what it may go back to.

    The places in the random streams of all processes follow each other.
    """
    return _Making(graph, _cat, _chained, _chained).state(states)


def divided(state: RunState, graph: Graph, tasks: range, rng: Callable[[Sequence[Tensor]], list[Tensor]]) -> RunState:
    """The part of a run's state that a process holds which has these ``tasks``; ``rng`` finds its random stream."""

    def taken(found: list[Any]) -> Any:
        return trees.tree_map(lambda t: t[tasks.start : tasks.stop].clone() if t.ndim else t, found[0])

    return _Making(graph, taken, lambda lists: lists[0][tasks.start : tasks.stop], lambda of: rng(of[0])).state([state])


@dataclass(frozen=True)
class _Making:
    """Makes one state of several.

    Args:
        join: treats what they hold of their tasks, ``listed`` what they hold as a list over tasks.
        rng: treats their random streams.
    """

    graph: Graph
    join: Join
    listed: Join
    rng: Join

    def state(self, states: Sequence[RunState]) -> RunState:
        """One state of several."""
        levels, first, join, listed = self.graph.levels, states[0], self.join, self.listed
        slots = [state.task for state in states]
        task = replace(
            join([replace(slot, starts=[]) for slot in slots]), starts=listed([slot.starts for slot in slots]),
            draw=max(slot.draw for slot in slots),
        )  # fmt: skip
        waiting = zip(levels, zip(*(state.pending for state in states), strict=True), strict=True)
        guards = [state.guard for state in states if state.guard is not None]
        return replace(
            first,
            slots={**first.slots, TASK: task},
            levels=[self._level(n, [state.levels[n] for state in states]) for n in range(len(levels))],
            pending=[join(_alike(found)) if level.moves == TASK else found[0] for level, found in waiting],
            good=listed([state.good for state in states]),
            guard=first.guard and replace(first.guard, tasks=listed([g.tasks for g in guards])),
            held=join([state.held for state in states]),
            rng=self.rng([state.rng for state in states]),
        )

    def _level(self, number: int, found: Sequence[LevelState]) -> LevelState:
        first, join, below = found[0], self.join, self.graph.subjects[number]
        ours = {m for m, level in enumerate(self.graph.levels) if level.moves == TASK}

        def each(get: Callable[[LevelState], Sequence[Any]]) -> list[Any]:
            """By subject; nothing is kept of the levels that members of a population have in common."""
            columns = zip(below, zip(*map(get, found), strict=True), strict=bool(get(first)))
            return [join(list(column)) if m in ours else column[0] for m, column in columns]

        fields: dict[str, Any] = {"window": Window(each(lambda x: x.window.records), each(lambda x: x.window.start))}
        if first.search is not None:
            within = {k: [getattr(x.search, k) for x in found] for k in ("start", "ends", "starts")}
            fields["search"] = replace(first.search, **{k: self._within(v) for k, v in within.items()})
        fields["members"] = self._within([x.members for x in found])
        taught = {m: [x.taught[m] for x in found] for m in first.taught}
        fields["taught"] = {m: join(states) if m in ours else states[0] for m, states in taught.items()}
        common = self.graph.levels[number].perturbs  # whose points are the same for all tasks
        fields["carried"] = first.carried if common else join([x.carried for x in found])
        if number in ours:
            fields |= {key: join([getattr(x, key) for x in found]) for key in ("parts", "before", "score")}
        return replace(first, **fields)

    def _within(self, found: list[Any]) -> Any:
        """Likewise of states, or lists of states, within."""
        if isinstance(found[0], list):
            return [self._within(list(column)) for column in zip(*found, strict=True)]
        return found[0] and self.state(found)


def _alike(signals: Sequence[Signal | None]) -> list[Signal | None]:
    """Signals of which all say where the guard acted, if it did so anywhere, and have the norm over all tasks."""
    there = [s for s in signals if s is not None]
    known = [(s.norm, len(s.loss)) for s in there if s.norm is not None and s.loss is not None and s.loss.ndim]
    norm = sum(n * count for n, count in known) / sum(count for _, count in known) if known else None
    acted = any(s.bad is not None for s in there)

    def alike(signal: Signal) -> Signal:
        bad = torch.zeros_like(signal.loss, dtype=torch.bool) if acted and signal.bad is None else signal.bad
        return replace(signal, bad=bad, norm=signal.norm if norm is None else norm)

    return [s and alike(s) for s in signals]


def _chained(lists: list[Any]) -> list[Any]:
    return [x for each in lists for x in each]


def _cat(found: list[Any]) -> Any:
    """Trees over tasks, one after the other."""
    first = found[0]
    if isinstance(first, Tensor):
        return torch.cat(found) if first.ndim else first
    if isinstance(first, dict):
        return {key: _cat([node[key] for node in found]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(_cat(list(column)) for column in zip(*found, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        return replace(first, **{f.name: _cat([getattr(node, f.name) for node in found]) for f in fields(first)})
    return first
