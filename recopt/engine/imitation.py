"""Imitation: what a known rule would have done where a rule that is being trained was, for the meta-loss to compare.

Chen et al. 2020 (2010.09089, "Training stronger baselines for learning to optimize") let the optimizer that is learned
follow an analytic one at first. Here the rule below goes its own way, and the teacher answers at each of its points,
with a state of its own: its updates are never applied. How the two are compared is in :mod:`recopt.estimators.tape`.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..core.evaluation import Moved
from ..levels import counts
from ..levels.graph import Graph
from ..levels.level import TASK, Level
from ..levels.seeds import mix
from ..levels.state import Pair, RunState, Signal
from ..rules.tensors import TensorMover


class Imitation:
    """Asks the teachers of a graph's levels.

    Args:
        tasks: how many are trained side by side; 0 for one without a leading dimension.
        seed: of what teachers draw.
    """

    def __init__(self, graph: Graph, tasks: int, seed: int) -> None:
        self.graph, self.levels, self.tasks, self.seed = graph, graph.levels, tasks, seed
        names = {level.teacher for level in self.levels if level.teacher}
        asked = {name: graph.slots[name].level.get("normalize", "none") for name in names}
        self.how = {name: Level(moves=TASK, by=name, normalize=normalize) for name, normalize in asked.items()}
        self.teachers = {name: TensorMover(graph.slots[name]) for name in names}

    def weight(self, state: RunState, number: int) -> float:
        """The weight of level ``number``'s comparison with its teacher at present; 0 where it has none."""
        level = self.levels[number]
        return level.imitation(state.slots[level.moves].age)

    def lessons(self, state: RunState, number: int, signal: Signal, moved: Moved) -> dict[int, list[Pair]]:
        """By level above, level ``number``'s own update and that of the teacher, tensor by tensor."""
        if not self.teachers:
            return {}
        found = {n: self._lesson(state, n, number, signal, moved) for n in self.graph.above[number]}
        return {n: lesson for n, lesson in found.items() if lesson}

    def _lesson(self, state: RunState, n: int, number: int, signal: Signal, moved: Moved) -> list[Pair]:
        """Empty where the teacher has nothing to say any more. An update that a guard held back is not compared."""
        taught, name = state.levels[n].taught, self.levels[n].teacher
        if name is None or self.weight(state, n) == 0:
            return []
        tasks = self.tasks if self.levels[number].moves == TASK else 0
        teacher, point = self.teachers[name], moved.start
        if number not in taught:
            taught[number] = {"strategy": teacher.begin(point, tasks), "normal": {}}
        before = taught[number]
        rng = Generator().manual_seed(mix(self.seed, 5, n, state.slots[self.levels[number].moves].seen))
        values = trees.detach(state.slots[name].params)
        grads = [torch.zeros_like(p) if g is None else g for g, p in zip(signal.grads or [], point, strict=True)]
        told = Signal(signal.loss, grads, bound=signal.bound)
        with torch.set_grad_enabled(any(u.requires_grad for u in moved.own)):
            made = teacher.step(values, self.how[name], point, told, before["strategy"], before["normal"], rng, tasks)
        taught[number] = {"strategy": made.strategy, "normal": made.normal}
        if signal.bad is None:
            return list(zip(moved.own, made.delta, strict=True))
        for key in (key for key in before if before[key]):
            taught[number][key] = trees.choose(signal.bad, before[key], taught[number][key])
        lesson = list(zip(moved.own, made.delta, strict=True))
        none = [(torch.zeros_like(u), torch.zeros_like(v)) for u, v in lesson]
        return trees.choose(signal.bad, none, lesson)

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape of the teachers beside level ``number``."""
        for n in self.graph.above[number]:
            taught = state.levels[n].taught
            if number in taught:
                taught[number] = trees.detach(taught[number])

    def renew(self, state: RunState, number: int, points: list[Params], index: Tensor) -> None:
        """Start the teachers beside level ``number`` afresh for the tasks in the places ``index``, at ``points``."""
        for n in self.graph.above[number]:
            held, name = state.levels[n].taught.get(number), self.levels[n].teacher
            if held is None or name is None:
                continue
            strategy = self.graph.slots[name]
            state.levels[n].taught[number] = {
                "strategy": counts.renewed(held["strategy"], strategy, points, index, self.tasks),
                "normal": counts.cleared(held["normal"], index, self.tasks),
            }
