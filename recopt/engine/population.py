"""The windows of a population's trials, run side by side: the runs of one rule with hyperparameters of their own.

A trial that goes as usual is a row of a matrix [trials, numbers of the model]: the model is evaluated at all rows in
one call (:mod:`.copies`), and the rule's text steps all rows at once. Where anything is out of the ordinary (the guard
acts, an update is no number), the trial is left to be run alone. What comes out is the state that this would lead to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contracts.strategy import Params, State
from ..core import guard
from ..core.limits import Limits
from ..core.tower import Tower
from ..levels.judgement import Verdict, judge
from ..levels.level import BILEVEL, TASK
from ..levels.state import Record, RunState, Search, Signal
from ..rules.rows import ROWS
from ..rules.rule import step
from .budget import Budget
from .copies import Copies
from .particles import Particles


@dataclass
class _Evaluated:
    """The findings of one evaluation of all rows; ``updates`` are the lengths of those that followed."""

    loss: Tensor
    grads: Tensor
    norms: list[float]
    updates: Sequence[float] = ()


class Population:
    """Runs the windows of trials of a zero-order level over a rule that moves the model.

    Args:
        budget: gives the run's account.
        each: whether the record also holds the loss of each task.

    Attributes:
        seconds: that were charged.
    """

    def __init__(self, tower: Tower, copies: Copies, budget: Callable[[], Budget], each: bool) -> None:
        self.tower, self.copies, self.budget, self.each = tower, copies, budget, each
        self.levels, self.seconds = tower.graph.levels, 0.0
        self.particles = Particles(tower, copies, budget)
        self._serves = {n for n, level in enumerate(self.levels) if level.gradient == "value" and self._is_plain(n)}

    def serves(self, number: int, count: int) -> bool:
        """True if ``count`` trials of level ``number`` may be run side by side."""
        return number in self._serves and count > 0

    def _is_plain(self, number: int) -> bool:
        """True if level ``number`` moves a rule that moves all of one model, and nothing else is told of it."""
        graph, level, carriers = self.tower.graph, self.levels[number], self.tower.carriers
        movers = graph.movers[TASK]
        if len(movers) != 1 or graph.subjects[number] != movers or graph.above[movers[0]] != [number]:
            return False
        below, mover = self.levels[movers[0]], carriers.columns.get(movers[0])
        if mover is None or mover.rule.whole or mover.needs() or below.average is not None or below.trust is not None:
            return False
        usual = below.normalize in (None, "none") and below.schedule == "constant" and not below.only
        alone = level.teacher is None and not self.tower.setting.tasks and level.moves not in BILEVEL
        return usual and alone and level.on != "valid"

    def ends(self, states: Sequence[RunState], number: int, payer: int) -> list[RunState | None]:
        """The ends of the windows of level ``number`` that have begun in ``states`` with an update.

        None for those that have to be run alone. ``payer`` is charged.
        """
        begin = time.perf_counter()
        out: list[RunState | None] = [None] * len(states)
        size = sum(p.numel() for p in states[0].task.params)
        for group in self.copies.groups(len(states), size):
            mine = [states[n] for n in group]
            if len(group) > 1 and self._alike(mine, number):
                for n, end in zip(group, _Rows(self, mine, number, payer).ends(), strict=True):
                    out[n] = end
        self._charge(payer, time.perf_counter() - begin)
        return out

    def scores(self, number: int, search: Search, payer: int) -> list[Tensor] | None:
        """The scores of all perturbed points of a level; None if they have to be run alone. ``payer`` is charged."""
        begin = time.perf_counter()
        found = self.particles.scores(number, search, payer)
        self._charge(payer, time.perf_counter() - begin)
        return found

    def _charge(self, payer: int, took: float) -> None:
        self.budget().spend(payer, seconds=took)
        self.seconds += took

    def _alike(self, states: Sequence[RunState], number: int) -> bool:
        """True if ``states`` are at the same step of the same task, with all of the model in one part."""
        m = self.tower.graph.subjects[number][0]
        whole = list(range(len(self.tower.slots.index(states[0], m))))
        kinds = {p.dtype for p in states[0].task.params}
        if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
            return False
        for state in states:
            parts, records = state.levels[m].parts, state.levels[number].window.records[0]
            if state.task.starts or len(parts) != 1 or parts[0].indices != whole or parts[0].idle:
                return False
            if state.guard is not None and state.guard.sizeless:  # whose first steps may be cut
                return False
            if len(records) != 1 or records[0].loss is not None or state.resets or state.due:
                return False
        return len({(s.step, s.task.draw, s.task.seen) for s in states}) == 1


class _Rows:
    """Runs that are at the same step, row by row."""

    def __init__(self, of: Population, states: Sequence[RunState], number: int, payer: int) -> None:
        self.of, self.states, self.number, self.payer = of, states, number, payer
        self.below = of.tower.graph.subjects[number][0]
        self.rule: Any = of.tower.carriers.columns[self.below].rule
        self.shapes = [p.shape for p in states[0].task.params]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.point = _matrix([s.task.params for s in states])
        self.buffers = [torch.stack(each) for each in zip(*(s.task.buffers for s in states), strict=True)]
        numbers: list[Any] = [s.slots[of.levels[self.below].by] for s in states]
        self.hyper = _scalars([n.value for n in numbers], self.point)
        self.held = self._opened([s.levels[self.below].parts[0].strategy for s in states])
        self.good = [True] * len(states)
        self.factors = [1.0] * len(states)

    def ends(self) -> list[RunState | None]:
        """Their states at the end of the window; None where they have to be run alone."""
        every, found = self.of.tower.graph.paces.every(self.states[0], self.number), list[_Evaluated]()
        if self.held is None:
            return [None] * len(self.states)
        while any(self.good):
            evaluated = self._evaluated(len(found))
            if evaluated is None:
                return [None] * len(self.states)
            found.append(evaluated)
            if len(found) == every:
                break
            try:
                evaluated.updates = self._step(evaluated)
            except (RuntimeError, TypeError, ValueError, ArithmeticError):  # a text that asks for more than arithmetic
                return [None] * len(self.states)
        return [self._end(row, found) if good else None for row, good in enumerate(self.good)]

    def _evaluated(self, count: int) -> _Evaluated | None:
        """The losses and gradients of all rows on the next batch."""
        slot, copies = self.states[0].task, self.of.copies
        batch = copies.evaluator.batch(slot, slot.seen + count, "train")
        self.of.budget().spend(self.payer, gradient=len(self.states))
        answer = copies.gradient(slot, self._tensors(self.point), self.buffers, batch)
        if answer is None or any(g is None for g in answer[1]):
            return None
        loss, grads, self.buffers = answer
        whole = torch.cat([g.reshape(len(g), -1) for g in grads if g is not None], 1)
        found = _Evaluated(loss, whole, torch.linalg.vector_norm(whole, dim=1).tolist())
        if self.of.tower.carriers.guarded:
            self._judge(loss.tolist(), found.norms)
        return found

    def _judge(self, losses: list[float], norms: list[float]) -> None:
        for row, state in enumerate(self.states):
            if self.good[row] and state.guard is not None:
                before = dict(state.guard.counts)
                (verdict,) = judge(state.guard, [losses[row]], [norms[row]])
                self.good[row] = verdict is Verdict.GOOD and state.guard.counts == before

    def _step(self, found: _Evaluated) -> Sequence[float]:
        """Step all rows; the lengths of their updates."""
        hyper, scale = dict(self.hyper), self._scale()
        if scale is not None and self.rule.linear is not None:
            hyper[self.rule.linear] = hyper[self.rule.linear] * scale
        assert self.held is not None
        update, self.held = step(self.rule, ROWS, [found.grads], [self.point], self.held, hyper)
        moved = update[0] if scale is None or self.rule.linear is not None else update[0] * scale.to(update[0].dtype)
        new = self.point + moved
        lengths: list[float] = torch.linalg.vector_norm(new - self.point, dim=1).tolist()
        self.point, limits = new, self.of.tower.bottom.limits
        for row, state in enumerate(self.states):
            state.norm = found.norms[row]
            short = lengths[row] < torch.inf and _is_short(
                limits, state, new[row], self.below, lengths[row], self.factors[row]
            )
            self.good[row] = self.good[row] and short
            if state.guard is not None:
                guard.stepped(state.guard, [True])
        return lengths

    def _scale(self) -> Tensor | None:
        """The guard's factors on the next updates; None where all are 1."""
        guarded = self.of.levels[self.below].guard
        self.factors = [s.guard.tasks[0].shrink if s.guard is not None and guarded else 1.0 for s in self.states]
        if all(f == 1.0 for f in self.factors):
            return None
        return torch.tensor(self.factors, dtype=torch.float64, device=self.point.device)[:, None]

    def _end(self, row: int, found: Sequence[_Evaluated]) -> RunState:
        """The state of a row, as steps of its own would have left it."""
        state, steps, last = self.states[row], len(found) - 1, found[-1]
        own, slot, records = state.levels[self.below], state.task, state.levels[self.number].window.records[0]
        slot.params = self._own(self.point, row)
        slot.buffers = [b[row].clone() for b in self.buffers]
        slot.seen, slot.age, slot.version = slot.seen + len(found), slot.age + steps, slot.version + steps
        own.steps += steps
        if steps:
            own.parts[0].strategy, own.parts[0].scale = self._closed(row), self.factors[row]
        records[0].loss = found[0].loss[row]
        records += [Record([], [], one.loss[row]) for one in found[1:]]
        for number, one in enumerate(found):
            each = {"losses": one.loss[row]} if self.of.each else {}
            state.log.append((0, state.step + number, {"loss": one.loss[row], **each}))
            if number < steps:
                values = {"update_norm": one.updates[row], "signal_norm": one.norms[row]}
                state.log.append((self.below + 1, state.step + number, values))
        state.step, state.norm, state.good = state.step + steps, last.norms[row], [True]
        state.pending[self.below] = Signal(last.loss[row], self._own(last.grads, row), [], norm=last.norms[row])
        return state

    def _tensors(self, matrix: Tensor) -> Params:
        """The model's tensors of all rows."""
        parts = matrix.split(self.sizes, dim=1)
        return [part.reshape(len(matrix), *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _own(self, matrix: Tensor, row: int) -> Params:
        """The model's tensors of one row."""
        parts = matrix[row].split(self.sizes)
        return [part.reshape(shape).clone() for part, shape in zip(parts, self.shapes, strict=True)]

    def _opened(self, states: Sequence[State]) -> State | None:
        """The rule's states as one, with a row for each; None if they are not of the same form."""
        if any(state.keys() != states[0].keys() for state in states):
            return None
        columns = {
            key: [_matrix([state[key] for state in states])] for key, x in states[0].items() if isinstance(x, list)
        }
        rest = [{key: x for key, x in state.items() if key not in columns} for state in states]
        if not all(isinstance(x, int | float) for one in rest for x in one.values()):
            return None
        if any(isinstance(x, int) and one[key] != x for one in rest for key, x in rest[0].items()):
            return None
        scalars = _scalars(rest, self.point)
        return {key: columns[key] if key in columns else scalars[key] for key in states[0]}

    def _closed(self, row: int) -> State:
        """The rule's state of a row."""
        assert self.held is not None

        def own(value: Any) -> Any:
            if isinstance(value, list):
                return self._own(value[0], row)
            return value[row].item() if isinstance(value, Tensor) else value

        return {key: own(value) for key, value in self.held.items()}


def _is_short(limits: Limits, state: RunState, point: Tensor, below: int, length: float, factor: float) -> bool:
    """False if the guard would cut an update of that length, which led to ``point``."""
    if not limits.due(state, below, factor):
        return True
    most = guard.REACH * limits.size(state, below, [point])
    limits.measured(state, below, length / most, factor)
    return length <= most


def _matrix(rows: Sequence[Params]) -> Tensor:
    """All numbers of each of ``rows``, in a row."""
    return torch.stack([torch.cat([t.detach().reshape(-1) for t in row]) for row in rows])


def _scalars(rows: Sequence[Mapping[str, float]], like: Tensor) -> dict[str, Any]:
    """Numbers by name: plain where all rows have the same, else float64 of shape [rows, 1]."""
    found = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: each[0] if all(x == each[0] for x in each)
        else torch.tensor(each, dtype=torch.float64, device=like.device)[:, None]
        for name, each in found.items()
    }  # fmt: skip
