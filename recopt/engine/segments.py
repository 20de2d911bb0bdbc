"""Windows that are unrolled segment by segment: the states between, and the steps of a segment made anew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.strategy import Params
from ..core.tower import Tower
from ..levels.estimator import Stretch
from ..levels.level import TASK
from ..levels.state import RunState, Window
from ..search.begins import Home
from .randomness import Stream
from .source import Source


class Mark(NamedTuple):
    """The state of a run between two segments, before the loss after update ``place`` (from 0) of the window."""

    place: int
    state: RunState


class Segments:
    """Cuts the tapes of such windows as a run goes on, and goes back to where it cut them.

    Args:
        home: the run.
        stream: what its models draw at random.

    Attributes:
        numbers: the levels (0-based).
        replaying: whether steps are made anew.
    """

    def __init__(self, tower: Tower, source: Source, home: Home, stream: Stream) -> None:
        self.tower, self.source, self.home, self.stream = tower, source, home, stream
        self.levels, self.replaying = tower.graph.levels, False
        self.numbers = [n for n, level in enumerate(self.levels) if (level.segments or 1) > 1]

    def mark(self) -> None:
        """A step was made: cut the tape if a segment ends with it."""
        for number in () if self.replaying else self.numbers:
            state, level = self.home.state, self.levels[number]
            records, carried = state.levels[number].window.records[0], state.levels[number].carried
            place, length = len(records) - 1, math.ceil((level.every or 1) / (level.segments or 1))
            if place < 0 or place % length or place + 1 >= (level.every or 1) or records[-1].loss is not None:
                continue
            if carried.get("newest") is not records[-1]:  # else the guard has let no update pass
                self._cut(state, number)

    def _cut(self, state: RunState, number: int) -> None:
        own = state.levels[number]
        records = own.window.records[0]
        if len(records) == 1:
            own.carried = {"opening": _values(self.tower, state), "marks": []}
        for each in own.window.records:
            for record in each[:-1]:
                record.loss, record.pairs = trees.detach(record.loss), []
        for level, x in enumerate(self.levels):
            if x.moves == TASK:
                self.tower.slots.cut(state, level)
        state.task.params = trees.detach(state.task.params)
        carried, window, own.carried = own.carried, own.window, {}
        own.window = Window([each[-1:] for each in window.records], window.start)
        carried["marks"].append(Mark(len(records) - 1, self.home.copy()))
        own.carried, own.window = carried, window
        carried |= {"newest": records[-1], "inputs": _leaves(self.tower, state)}

    def stretches(self, state: RunState, number: int) -> Iterator[Stretch]:
        """The segments of a full window, the last one first, each with its tape.

        Raises:
            RecoptError: if steps that are made anew lead elsewhere than they did.
        """
        own = state.levels[number]
        carried, records, own.carried = own.carried, own.window.records[0], {}
        marks: list[Mark] = carried["marks"]
        yield Stretch(records[marks[-1].place :], marks[-1].place, carried.pop("inputs"), [])
        for mark, after in zip(marks[-2::-1], marks[:0:-1], strict=True):
            yield self._again(mark, after, number)
        yield Stretch([], 0, [], carried["opening"])

    def _again(self, mark: Mark, after: Mark, number: int) -> Stretch:
        """The steps from ``mark`` to ``after`` made anew; the run then is where it was."""
        here, place, tapes = self.home.state, self.stream.place(), self.tower.windows.tapes
        full, self.replaying = tapes.full, True
        try:
            self.home.go(mark.state)
            inputs = _leaves(self.tower, self.home.state)
            with torch.enable_grad():
                for _ in range(after.state.task.seen - mark.state.task.seen):
                    self._step()
            there = self.home.state
            outputs = _values(self.tower, there)
        finally:
            self.home.state, tapes.full, self.replaying = here, full, False
            self.stream.go(place)
        same = zip(outputs, _values(self.tower, after.state), strict=True)
        if not all(torch.equal(a.detach(), b) for a, b in same):
            title = self.tower.graph.title(number)
            raise RecoptError(
                f"Level{title.removeprefix('level')}: steps that were made anew led elsewhere than before, so that no "
                "derivative in segments is exact: the loss depends on more than model, batch and torch's random "
                "numbers. Drop 'segments'."
            )
        records = there.levels[number].window.records[0]
        return Stretch(records[: after.place - mark.place], mark.place, inputs, outputs)

    def _step(self) -> None:
        state, tapes = self.home.state, self.tower.windows.tapes
        tapes.foresee(state)
        found = self.source.evaluate(state, tapes.graph_needed(state))
        self.tower.down(state, self.tower.up(state, found), found)


def _values(tower: Tower, state: RunState) -> Params:
    """The task's parameters, and the states of the levels that move it."""
    parts = [[part.strategy, part.normal] for n in tower.graph.movers[TASK] for part in state.levels[n].parts]
    return [*state.task.params, *(t for t in trees.tensors(parts) if t.is_floating_point())]


def _leaves(tower: Tower, state: RunState) -> Params:
    """Make them leaves of a tape."""

    def leaf(value: Tensor) -> Tensor:
        return value.detach().requires_grad_() if value.is_floating_point() else value

    slot = state.task
    slot.params = [leaf(p) for p in slot.params]
    for n in tower.graph.movers[TASK]:
        for part in state.levels[n].parts:
            part.strategy, part.normal = trees.tree_map(leaf, part.strategy), trees.tree_map(leaf, part.normal)
    return _values(tower, state)
