"""Perturbed points side by side: runs of one rule, each with values of its parameters of its own, as one stacked run.

A stacked run is the run of as many tasks as there are points, all of them the run's one task on the same batches, by a
tower whose strategies have values by task too (:class:`recopt.core.carriers.Setting`, ``rows``). What comes out is what
one after the other would give, to rounding, but where the guard takes updates back, as it does of tasks side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import Notice
from ..contracts import trees
from ..contracts.strategy import Params
from ..core.evaluation import Evaluation
from ..core.tower import Tower
from ..levels.estimator import POINTS, STACK
from ..levels.judgement import Guard
from ..levels.level import BILEVEL, TASK
from ..levels.objective import score
from ..levels.parts import Part
from ..levels.state import LevelState, Record, RunState, Search, Signal, SlotState, Window
from .budget import Budget
from .copies import ELEMENTS, Copies
from .ways import Grads


class Particles:
    """Runs the perturbed points of levels right over those that move the model.

    Args:
        budget: gives the run's account.
    """

    def __init__(self, tower: Tower, copies: Copies, budget: Callable[[], Budget]) -> None:
        self.tower, self.copies, self.budget = tower, copies, budget
        self.levels = tower.graph.levels
        self._towers: dict[tuple[int, int], Tower] = {}
        self._serves = {n for n, level in enumerate(self.levels) if level.perturbs and self._is_plain(n)}

    def _is_plain(self, number: int) -> bool:
        """True if the level moves all that moves one model, and nothing else is beside it or told of that."""
        graph, level, tower = self.tower.graph, self.levels[number], self.tower
        movers, slots = graph.movers[TASK], {*BILEVEL} & {x.moves for x in self.levels}
        others = [m for m in range(len(self.levels)) if m not in (*movers, number) and number not in graph.below(m)]
        if graph.subjects[number] != movers or others or slots or tower.setting.tasks or level.on == "valid":
            return False
        if level.teacher is not None or level.penalty_update or level.penalty_moved or graph.paces.slots:
            return False
        below = [self.levels[m] for m in movers]
        free = all(x.schedule == "constant" and not x.null_step and x.average is None for x in below)
        return free and not any(x.tries or tower.carriers.draws[m] for m, x in zip(movers, below, strict=True))

    def scores(self, number: int, search: Search, payer: int) -> list[Tensor] | None:
        """The scores of all points but the first, over the windows that open where ``search`` began.

        None if they have to be run one after the other, from there.
        """
        held: RunState | None = search.carried.pop(STACK, None)
        if number not in self._serves or (held is None and search.starts):
            return None
        points: Params = [p[1:] for p in search.carried[POINTS]]
        tower = self._tower(number, len(points[0]))
        state = self._begun(search.start, number, len(points[0])) if held is None else held
        self._put(tower, state, search.start, number, points)
        try:
            done = self._run(tower, state, number, payer)
        except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:  # a rule that cannot be mapped
            self._serves.discard(number)
            why = " ".join(str(error).split()).partition(". ")[0][:150]
            said = f"Level {number + 1} runs its points one after the other, as '{self.levels[number].moves}' cannot be"
            warnings.warn(f"{said} mapped over values of its own: {why}", Notice, stacklevel=2)
            return None
        if not done:
            return None
        own = state.levels[number]
        window, own.window = own.window, own.window.next()
        losses = [r.loss for r in window.records[0] if r.loss is not None]
        start = window.start[0]
        found, _ = score(self.levels[number].objective or "mean", losses, None if start is None else start.loss)
        search.carried[STACK] = state
        return list(found.unbind())

    def _tower(self, number: int, count: int) -> Tower:
        key = (number, count)
        if key not in self._towers:
            whole = self.tower
            setting = replace(whole.setting, tasks=count, rows=True, in_place=False, closed=False)
            self._towers = {key: Tower(whole.graph, setting, self._names)}
        return self._towers[key]

    def _names(self, state: RunState) -> list[str]:
        return self.copies.evaluator.family.drawn(state.task.draw).names

    def _begun(self, start: RunState, number: int, count: int) -> RunState:
        """``count`` runs that are where ``start`` is, with what is due to begin anew begun."""
        state = trees.tree_map(torch.clone, trees.detach(start))
        if self.tower.around is not None and TASK in state.resets:
            self.tower.around.begin(state, TASK)
        graph, task = self.tower.graph, state.task

        def rows(tree: Any) -> Any:
            return trees.tree_map(lambda t: t.detach().expand(count, *t.shape).clone(), tree)

        slot = SlotState(rows(task.params), rows(task.buffers), task.draw, task.age, task.seen, task.version)
        levels, pending = list[LevelState](), list[Signal | None]()
        for m, own in enumerate(state.levels):
            moves = m in graph.movers[TASK]
            parts, signal = [_part(p, rows) for p in own.parts] if moves else [], state.pending[m] if moves else None
            levels.append(LevelState(parts, own.rng, Window.empty(len(graph.subjects[m])), own.steps))
            pending.append(signal and replace(signal, loss=rows(signal.loss), grads=rows(signal.grads), pairs=[],
                                              bad=rows(signal.bad)))  # fmt: skip
        levels[number].window.start = [r and Record([], [], rows(r.loss)) for r in state.levels[number].window.start]
        guard = state.guard and Guard([replace(state.guard.tasks[0]) for _ in range(count)], steps=state.guard.steps)
        return RunState({TASK: slot}, levels, pending, guard, [True] * count, step=state.step, resets=state.resets)

    def _put(self, tower: Tower, state: RunState, start: RunState, number: int, points: Params) -> None:
        """Set the values of the strategy that is moved: those of ``points`` where the level moves them."""
        name, index = self.levels[number].moves, tower.slots.index(start, number)
        rows, moved = len(points[0]), dict(zip(index, points, strict=True))
        own = [v.detach().expand(rows, *v.shape) for v in self.tower.slots.strategy(start, name)]
        state.slots[name] = SlotState([moved.get(i, v).to(tower.setting.device) for i, v in enumerate(own)], [])

    def _run(self, tower: Tower, state: RunState, number: int, payer: int) -> bool:
        """Run until the windows are full; False if the model cannot be evaluated for all at once."""
        every, movers = self.levels[number].every or 1, len(tower.graph.movers[TASK])
        while True:
            tower.down(state, movers, Evaluation(None))
            found = self._evaluated(state, payer)
            if found is None:
                return False
            tower.up(state, found)
            if sum(r.loss is not None for r in state.levels[number].window.records[-1]) >= every:
                return True

    def _evaluated(self, state: RunState, payer: int) -> Evaluation | None:
        """Losses and gradients of all rows on the next batch."""
        slot, copies, count = state.task, self.copies, len(state.task.params[0])
        batch, most = (
            copies.evaluator.batch(slot, slot.seen, "train"),
            ELEMENTS // sum(p[0].numel() for p in slot.params),
        )
        found = list[tuple[Tensor, Grads, list[Tensor]]]()
        for rows in torch.arange(count).split(max(most, 1)):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            answer = copies.gradient(slot, [p[part] for p in slot.params], [b[part] for b in slot.buffers], batch)
            if answer is None:
                return None
            found.append(answer)
        slot.seen += 1
        self.budget().spend(payer, gradient=count)
        loss, grads, slot.buffers = found[0]
        if len(found) > 1:
            columns = zip(*(one[1] for one in found), strict=True)
            loss, grads = torch.cat([one[0] for one in found]), [_joined(each) for each in columns]
            slot.buffers = [torch.cat(each) for each in zip(*(one[2] for one in found), strict=True)]
        return Evaluation(loss, grads)


def _joined(column: Sequence[Tensor | None]) -> Tensor | None:
    known = [g for g in column if g is not None]
    return torch.cat(known) if len(known) == len(column) else None


def _part(part: Part, rows: Callable[[Any], Any]) -> Part:
    known = {"point": rows(part.kept["point"])} if "point" in part.kept else {}
    return Part(list(part.indices), rows(part.strategy), rows(part.normal), idle=list(part.idle),
                recorded=part.recorded, kept=known)  # fmt: skip
