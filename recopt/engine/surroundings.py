"""The surroundings of a run's levels: fresh starts, lessons, schedules, the record."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from operator import mul
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..core import guard
from ..core.evaluation import Evaluation, Moved
from ..levels.estimator import Closing
from ..levels.graph import Graph
from ..levels.judgement import Guard
from ..levels.level import INIT, LOSS, TASK
from ..levels.state import Numbers, Pair, RunState, Signal
from ..ranks.shared import Ranks
from ..rules.told import told
from .episodes import Episodes
from .imitation import Imitation
from .loss_slot import recorded

_ACTS = ("skipped", "resized", "restored")
"""The guard's acts on tasks, as they are counted."""
_TOLD = 10
"""The steps from one record of what a rule tells of its state to the next: reading it may wait for a device."""


class Surroundings:
    """The surroundings of a tower in a run; ``episodes`` are set once the tower is there.

    Args:
        charge: charges a level for a hypergradient, or so many, and for the Hessian products since the last call.
        closing: adds to the terms on which a window is closed what the run can do for that.
        heard: whether somebody reads the record, so that the sizes of updates are worth their time.
        ranks: the processes among which the tasks are divided.

    Attributes:
        quiet: whether what happens is replayed, and so neither told nor charged again.
    """

    episodes: Episodes

    def __init__(
        self, graph: Graph, imitation: Imitation, charge: Callable[..., None], *,
        closing: Callable[[RunState, int, Closing], Closing], heard: Callable[[], bool], ranks: Ranks,
    ) -> None:  # fmt: skip
        self.graph, self.imitation, self.charge, self.heard, self.ranks = graph, imitation, charge, heard, ranks
        self.closing = closing
        self.quiet = False

    def judged(self, state: RunState, found: Evaluation, good: Sequence[bool], before: dict[str, int]) -> bool:
        """Record the acts of the guard since ``before``, with how often it acted so far, on all tasks.

        True if any task is good, in other processes too. Gradients that some tasks have are zero for the others.
        """
        memory, some = state.guard, sum(good)
        assert memory is not None
        was, memory.still = memory.still, sum(guard.frozen(memory))
        if self.ranks:
            some = self._agreed(state, memory, found, good, before)
        values: dict[str, Any] = {k: n for k, n in memory.counts.items() if n != before.get(k, 0)}
        if memory.still != was:
            values["frozen"] = memory.still
        if values:
            self.log(state, self.graph.movers[TASK][0], values)
        return some > 0

    def _agreed(
        self, state: RunState, memory: Guard, found: Evaluation, good: Sequence[bool], before: dict[str, int]
    ) -> int:
        """The good tasks of all processes, whose guards' acts are added up; gradients that some have, all have."""
        grads, acts, counts = list(found.grads or []), _ACTS, memory.counts
        mine = [counts.get(act, 0) - before.get(act, 0) for act in acts]
        reached = [g is not None for g in grads]
        some, memory.still, *told = map(int, self.ranks.totals([sum(good), memory.still, *mine, *reached]))
        news, told = dict(zip(acts, told, strict=False)), told[len(acts) :]
        if news["restored"] and not mine[acts.index("restored")]:  # what that does to the tasks beside it
            self.episodes.tower.bottom.limits.take_back(state, [False] * len(good))
        counts |= {act: before.get(act, 0) + n for act, n in news.items() if n}
        for n, (g, p) in enumerate(zip(grads, state.task.params, strict=False)):
            if g is None and told[n]:
                grads[n] = torch.zeros_like(p)
        found.grads = found.grads and grads
        return some

    def closed(self, state: RunState, number: int) -> None:
        """Charge a level for its hypergradient, and end the episodes that its window ends."""
        self.charge(state, number)
        self.episodes.close(state, number)

    def begin(self, state: RunState, name: str) -> None:
        """Start a slot afresh if that is due."""
        self.episodes.begin(state, name)

    def lessons(self, state: RunState, number: int, signal: Signal, moved: Moved) -> dict[int, list[Pair]]:
        """By level above, an update beside that of the teacher."""
        return self.imitation.lessons(state, number, signal, moved)

    def factors(self, state: RunState, number: int) -> Sequence[float]:
        """The factors of the schedule on the next update of a level, per task."""
        level = self.graph.levels[number]
        return [level.factor(age) for age in self.episodes.ages(state, level.moves)]

    def stepped(self, state: RunState, number: int, signal: Signal, update: Sequence[Any], read: Any) -> None:
        """Record a step of level ``number``: the sizes of ``update``, of the signal, and of how it was read."""
        if self.heard() or self.quiet:  # of what is replayed, a trial that is still open is yet to be told of
            self._sizes(state, number, signal, update, read)
            if values := _told(self.graph, state, number):
                self.log(state, number, values)
        self.hyperparameters(state, number)

    def _sizes(self, state: RunState, number: int, signal: Signal, update: Sequence[Any], read: Any) -> None:
        level, own = self.graph.levels[number], state.levels[number]
        batched = self.imitation.tasks > 0 and level.moves == TASK
        values: dict[str, Any] = {"update_norm": _size(update, batched)}
        if signal.grads is not None:
            there = [g for g in signal.grads if g is not None]
            values["signal_norm"] = signal.norm if signal.norm is not None else _size(there, batched)
        if level.normalize != "none" and read is not None:
            values["normalized_norm"] = _size(read, batched)
        if level.moves != TASK and signal.loss is not None:
            values["meta_loss"] = _mean(signal.loss)
        if level.moves != TASK and signal.grads:
            now = there if isinstance(signal.grads[0], float) else trees.detach(there)
            if len(own.earlier) == len(now):
                values["signal_cosine"] = _cosine(own.earlier, now)
            own.earlier = now
        self.log(state, number, values)

    def hyperparameters(self, state: RunState, number: int) -> None:
        """Record a level's hyperparameters, where they changed since it stepped, and a loss or start that it moved."""
        if self.graph.levels[number].moves == LOSS:
            self.log(state, number, recorded(self.graph.names[LOSS], state.slots[LOSS].params))
        if self.graph.levels[number].moves == INIT:
            self.log(state, number, {"init.norm": trees.norm(state.slots[INIT].params)})
        name, own = self.graph.levels[number].by, state.levels[number]
        slot, strategy = state.slots[name], self.graph.slots[name]
        if own.logged == slot.version:
            return
        own.logged = slot.version
        if isinstance(slot, Numbers):
            found: dict[str, Any] = {n: slot.value[n] for n in self.graph.names[name] if n in strategy._domains}
        else:
            here = dict(zip(self.graph.names[name], [p.detach() for p in slot.params], strict=True))
            found = dict(strategy.natural(here))
        if found:
            self.log(state, number, found)

    def log(self, state: RunState, number: int, values: dict[str, Any]) -> None:
        """Add a point to the record of level ``number`` (0-based; −1: the task)."""
        state.log.append((number + 1, state.step, values))
        if values.get("frozen") and not self.quiet:
            _tell(state, values["frozen"], self.ranks)


def _tell(state: RunState, frozen: int, ranks: Ranks) -> None:
    assert state.guard is not None
    tasks = ranks.tasks if ranks else len(state.guard.tasks)
    whose = f", {frozen} of {tasks} tasks" if tasks > 1 else ""
    warnings.warn(
        f"'task' stands still at step {state.step:,}{whose}: {guard.FROZEN} evaluations had a loss or gradient "
        "that is not finite, or a loss that explodes, and hardly a step between them went well.",
        RuntimeWarning,
        stacklevel=2,
    )


def _told(graph: Graph, state: RunState, number: int) -> dict[str, float]:
    """The numbers that the rule of a level that moves tasks tells of its state, now and then."""
    name, own = graph.levels[number].by, state.levels[number]
    if graph.levels[number].moves != TASK or own.steps % _TOLD:
        return {}
    return told(name, graph.slots[name], graph.names[name], state.slots[name], own.parts)


def _size(values: Sequence[Any], batched: bool) -> Any:
    """The norm, the mean over tasks; a float where no device has to be waited for."""
    if values and not isinstance(values[0], Tensor):
        return math.hypot(*values)
    if values and values[0].is_cpu and not batched:
        return math.hypot(*[n.item() for n in torch._foreach_norm(trees.detach(list(values)))])
    return _mean(trees.norm(values, batched))


def _cosine(one: Sequence[Any], other: Sequence[Any]) -> Any:
    """The cosine between two signals, 0 where one of them is; a float where no device has to be waited for."""
    if not other or isinstance(other[0], float):
        lengths = math.hypot(*one) * math.hypot(*other)
        return sum(map(mul, one, other)) / lengths if lengths > 0 else 0.0
    a, b = (torch.cat([x.reshape(-1) for x in each]) for each in (one, other))
    return _mean(torch.cosine_similarity(a, b, dim=0))


def _mean(value: Any) -> Any:
    """Over tasks, without a graph."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().mean() if value.ndim else value.detach()
