"""Imitation: what a known rule would have done where a rule that is being trained was, for the meta-loss to compare.

Chen et al. 2020 (2010.09089, "Training stronger baselines for learning to optimize") let the optimizer that is learned
follow an analytic one at first. Here the rule below goes its own way, and the teacher answers at each of its points,
with a state of its own: its updates are never applied. How the two are compared is in :mod:`recopt.engine.tape`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..core import counts
from ..core.level import TASK, Level
from ..core.seeds import mix
from ..core.state import Pair, RunState, Signal

if TYPE_CHECKING:
    from .engine import Engine


class Teacher:
    """Asks the teachers of an engine's levels."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.levels = engine, engine.levels
        names = {level.teacher for level in self.levels if level.teacher}
        asked = {name: engine.graph.slots[name].level.get("normalize", "none") for name in names}
        self.how = {name: Level(moves=TASK, by=name, normalize=normalize) for name, normalize in asked.items()}

    def weight(self, state: RunState, number: int) -> float:
        """What level ``number``'s comparison with its teacher counts for at present; 0 where it has none."""
        level = self.levels[number]
        return level.imitation(state.slots[level.moves].age)

    def lesson(self, state: RunState, n: int, number: int, signal: Signal, point: Params, delta: Params) -> list[Pair]:
        """The update of level ``number``'s strategy and that of level ``n``'s teacher at ``point``, tensor by tensor.

        Empty where the teacher has nothing to say any more. What a guard put back has no update to compare.
        """
        engine, taught, name = self.engine, state.levels[n].taught, self.levels[n].teacher
        if name is None or self.weight(state, n) == 0:
            return []
        caller, tasks = engine.slots.callers[name], engine.slots.tasks(number)
        if number not in taught:
            taught[number] = {"strategy": caller.init(point, tasks), "normal": {}}
        before = taught[number]
        rng = Generator().manual_seed(mix(engine.seed, 5, n, state.slots[self.levels[number].moves].seen))
        values = trees.detach(state.slots[name].params)
        made = caller.step(values, self.how[name], point, signal, before["strategy"], before["normal"], rng, tasks)
        taught[number] = {"strategy": made.strategy, "normal": made.normal}
        if signal.bad is None:
            return list(zip(delta, made.delta, strict=True))
        for key in (key for key in before if before[key]):
            taught[number][key] = trees.choose(signal.bad, trees.detach(before[key]), taught[number][key])
        none = [torch.zeros_like(d) for d in delta]
        ours, theirs = (trees.choose(signal.bad, none, each) for each in (delta, made.delta))
        return list(zip(ours, theirs, strict=True))

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape through the states that teachers keep beside level ``number``."""
        for n in self.engine.graph.above[number]:
            taught = state.levels[n].taught
            if number in taught:
                taught[number] = trees.detach(taught[number])

    def renew(self, state: RunState, number: int, points: list[Params], index: Tensor) -> None:
        """Start teachers beside level ``number`` afresh for the tasks at ``index``, which are now at ``points``."""
        for n in self.engine.graph.above[number]:
            held, name = state.levels[n].taught.get(number), self.levels[n].teacher
            if held is None or name is None:
                continue
            strategy = self.engine.graph.slots[name]
            state.levels[n].taught[number] = {
                "strategy": counts.renewed(held["strategy"], strategy, points, index, self.engine.tasks),
                "normal": counts.cleared(held["normal"], index, self.engine.tasks),
            }
