"""The way down: each level that has a signal steps the slot that it moves, the highest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..core import guard
from ..core.averages import folded
from ..core.level import TASK
from ..core.state import Pair, Record, RunState, Signal
from .apply import Step

if TYPE_CHECKING:
    from .engine import Engine


class Mover:
    """Steps the levels of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.levels = engine, engine.levels
        self.movers, self.above = engine.graph.movers, engine.graph.above

    def move(self, state: RunState, number: int) -> None:
        """Step level ``number`` if it has a signal, or start its slot afresh if that is due."""
        level = self.levels[number]
        if number == self.movers[level.moves][-1]:
            self.engine.episodes.begin(state, level.moves)
        signal = state.pending[number]
        if level.gradient == "value" and level.moves != TASK:
            if self.engine.searcher.due(number):
                # Noted first, so that the state to come back to holds the note as well.
                self._note(state, number, [], [], None if level.moves in state.resets else signal)
                self.engine.searcher.begin(number)
            return
        if level.moves in state.resets:
            return
        guarded = state.guards.get(level.moves)
        if signal is None or (guarded is not None and all(guard.frozen(guarded))):
            return
        if signal.bad is not None and bool(signal.bad.all()):
            # The guard has just put the slot back: no step, which the windows above still count.
            self._note(state, number, [], [], signal, null=True)
            return
        self._step(state, number, signal)

    def finish(self, state: RunState) -> None:
        """Forget this step's signals."""
        for name, numbers in self.movers.items():
            if name in state.resets or all(state.pending[n] is None for n in numbers):
                continue
            state.slots[name].age += 1
            if name == TASK:
                state.step += 1
        state.pending = [None] * len(self.levels)
        state.resets, state.due = [], []

    def _step(self, state: RunState, number: int, signal: Signal) -> None:
        engine, level, own = self.engine, self.levels[number], state.levels[number]
        point = engine.slots.point(state, number)
        above = self.above[number]
        taped = any(self.levels[n].taping for n in above)
        draws = not engine.slots.callers[level.by].strategy.vectorize
        rng = Generator()
        if draws:
            rng.set_state(own.rng)
        with torch.set_grad_enabled(taped):
            made = self._ask(state, number, signal, point, rng)
            lessons = {n: engine.teacher.lesson(state, n, number, signal, point, made.delta) for n in above}
            delta = self._checked(state, number, signal, made, point)
            new = [p + d for p, d in zip(point, delta, strict=True)]
        if level.average is not None:
            # Not before now: the guard may have taken the last update back.
            own.mean = folded(own.mean, trees.detach(point), level.average, state.slots[TASK].age)
        own.rng, own.steps = rng.get_state() if draws else own.rng, own.steps + 1
        own.strategy, own.normal = made.strategy, made.normal
        # What no tape runs over is a plain value; an optimizee's hyperparameters are leaves of the next window.
        engine.slots.put(state, number, new if taped else trees.detach(new))
        self._note(state, number, new, delta, signal, lessons=lessons)
        self._log(state, number, signal, made, delta)

    def _ask(self, state: RunState, number: int, signal: Signal, point: Params, rng: Generator) -> Step:
        """The strategy's answer; a zero-order one scores its proposals on the batch at hand."""
        engine, level, own = self.engine, self.levels[number], state.levels[number]
        caller, values, tasks = engine.slots.callers[level.by], state.slots[level.by].params, engine.slots.tasks(number)
        if engine.graph.order(number):
            return caller.step(values, level, point, signal, own.strategy, own.normal, rng, tasks)
        score = engine.source.scorer(state, number)
        delta, after = caller.search(values, point, signal.loss, score, own.strategy, rng, tasks)
        return Step(delta, after, own.normal, [])

    def _checked(self, state: RunState, number: int, signal: Signal, made: Step, point: Params) -> Params:
        """The deltas as they are applied: shrunk by schedule and guard, none where it acted, undone by a null step."""
        level, own = self.levels[number], state.levels[number]
        delta = made.delta
        guarded = state.guards.get(level.moves)
        if guarded is not None and min(guarded.scale) < 1:
            delta = _times(delta, guarded.scale)
        if level.schedule != "constant":
            delta = _times(delta, [level.factor(age) for age in self.engine.episodes.ages(state, level.moves)])
        if signal.bad is not None:
            delta = trees.choose(signal.bad, [torch.zeros_like(d) for d in delta], delta)
            made.strategy = trees.choose(signal.bad, trees.detach(own.strategy), made.strategy)
            if own.normal:
                made.normal = trees.choose(signal.bad, trees.detach(own.normal), made.normal)
        if level.null_step:
            loss = signal.loss.detach()
            if own.before is not None and own.score is not None and bool(loss.mean() > own.score.mean()):
                delta = [b - p.detach() for b, p in zip(own.before, point, strict=True)]
                own.before = None
                self.engine.log(state, number + 1, {"null_step": 1})
            else:
                own.before, own.score = trees.detach(point), loss
        return delta

    def _note(
        self, state: RunState, number: int, point: Params, delta: Params, signal: Signal | None, null: bool = False,
        lessons: Mapping[int, list[Pair]] | None = None,
    ) -> None:  # fmt: skip
        """Note an update in the windows of the levels above; ``signal`` is what came before it, if anything did."""
        for n in self.above[number]:
            window = state.levels[n].window
            k = self.engine.graph.subjects[n].index(number)
            if signal is not None and not window.records[k] and window.start[k] is None:
                window.start[k] = Record([], [], signal.loss.detach())
            keep = self.levels[n].taping
            update = list(delta) if keep else trees.detach(delta) if self.levels[n].penalty_update else []
            lesson = (lessons or {}).get(n, [])
            kept = lesson if keep else trees.detach(lesson)
            window.records[k].append(Record(list(point) if keep else [], update, null=null, lesson=kept))

    # record

    def _log(self, state: RunState, number: int, signal: Signal, made: Step, delta: Params) -> None:
        level, batched = self.levels[number], self.engine.slots.tasks(number) > 1
        values: dict[str, object] = {"update_norm": _mean(trees.norm(delta, batched))}
        if signal.grads is not None:
            known = signal.norm is not None
            values["signal_norm"] = signal.norm if known else _mean(trees.norm(signal.grads, batched))
        if level.normalize != "none":
            values["normalized_norm"] = _mean(trees.norm(made.signal, batched))
        if level.moves != TASK:
            values["meta_loss"] = _mean(signal.loss)
        self.engine.log(state, number + 1, values)
        self.hyperparameters(state, number)

    def hyperparameters(self, state: RunState, number: int) -> None:
        """The hyperparameters a level has just stepped with, where they changed."""
        name, own = self.levels[number].by, state.levels[number]
        params = state.slots[name].params
        if own.logged == state.slots[name].version:
            return
        own.logged = state.slots[name].version
        strategy = self.engine.graph.slots[name]
        found = strategy.natural(dict(zip(self.engine.graph.names[name], [p.detach() for p in params], strict=True)))
        if found:
            self.engine.log(state, number + 1, dict(found))


def _times(delta: Params, factors: list[float]) -> Params:
    """``delta`` times a factor, or one for each task."""
    if len(set(factors)) == 1:
        return [d * factors[0] for d in delta]
    scale = delta[0].new_tensor(factors)
    return [d * scale.view(-1, *[1] * (d.ndim - 1)) for d in delta]


def _mean(value: Tensor) -> Tensor:
    """Over tasks, without a graph."""
    return value.detach().mean() if value.ndim else value.detach()
