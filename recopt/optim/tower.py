"""A tower: the levels of one stack over one set of tensors, and what one step of training does to them.

Chandra et al. 2022 (1909.13371), as in DESIGN "No graph needed": on the way up, the hypergradient of each level
is the vector-Jacobian product of the last update of the level below with the signal that came after it; then
the levels step from the top down, so that the lower ones already use what the upper ones found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.errors import RecoptError
from ..contracts.strategy import Params
from ..core.graph import Graph
from ..core.level import TASK
from .guard import Guard
from .place import Place, places
from .reading import Reading, read
from .rungs import TaskRung
from .searcher import Searcher
from .shards import Shards
from .signals import Pulled, summed
from .slot import Slot
from .upper import FormulaRung, TapedRung, upper_rung

Rung = TaskRung | FormulaRung | TapedRung | Searcher


class Tower:
    """One stack at work.

    Args:
        graph: the levels.
        points: the tensors it moves (real views, at least float32), in the order of the graph's names.
        fused: whether kernels and formulas are used where strategies offer them.
        guard: whether non-finite signals, explosions and wild steps are acted upon.
        seed: of the generators that strategies draw from.
        shards: how the tensors are split over processes; ``points`` are the local parts.

    Raises:
        RecoptError: if the tensors are split and a level of the model is not one of closed sums.
    """

    def __init__(
        self, graph: Graph, points: Params, *, fused: bool, guard: bool, seed: int, shards: Shards | None = None
    ) -> None:
        self.graph, self.guard, self.shards = graph, Guard(guard), shards or Shards()
        widest = max(points, key=lambda p: torch.finfo(p.dtype).bits)
        self.slots = {name: Slot(name, strategy, widest) for name, strategy in graph.slots.items()}
        found = places(graph, self.slots, fused=fused, guard=guard, seed=seed, shards=self.shards)
        self.rungs = [_rung(place, graph, self.slots) for place in found]
        self.bottoms = [rung for rung in self.rungs if isinstance(rung, TaskRung)]
        orders = {graph.order(rung.place.number) for rung in self.bottoms}
        self.zero_order = 0 in orders
        if len(orders) > 1:
            raise RecoptError(
                "Level 1 has zero-order strategies beside others, whose gradients would be those of its trials: give "
                "each an optimizer of its own."
            )
        self.reader = next((name for name, strategy in graph.slots.items() if strategy.reads_loss), None)
        self.needs_loss = self.reader is not None or any(isinstance(rung, Searcher) for rung in self.rungs)

    def step(
        self, points: Params, grads: Sequence[Tensor | None], scale: float, loss: Tensor | None = None,
        after: Params | None = None,
    ) -> None:  # fmt: skip
        """One step on ``grads`` (None where a tensor has none), in place on ``points``.

        Args:
            scale: what a learning-rate scheduler multiplies the updates of level 1 by.
            loss: the loss that belongs to ``grads``, if it is known.
            after: gradients of the meta-loss at the present point, if it is another loss than the trained one.

        Raises:
            RecoptError: if a strategy reads the loss and it is not known.
        """
        if loss is None and self.reader is not None:
            raise RecoptError(
                f"'{self.reader}' reads the loss besides the gradients: call opt.step(loss=loss), or opt.step(closure) "
                "with a function that computes and returns it."
            )
        there = [g for g in grads if g is not None]
        if not there:
            return
        cotangents = after if after is not None else [torch.zeros_like(p) if g is None else g
                                                      for g, p in zip(grads, points, strict=True)]  # fmt: skip
        measured = [[c.measure(points, cotangents) for c in rung.cohorts] if rung.place.window else []
                    for rung in self.bottoms]  # fmt: skip
        reading = read(there, measured, self.shards)
        if not self.guard.passes(self.bottoms, points, reading.norm, None if loss is None else float(loss)):
            return
        for cohort in [c for bottom in self.bottoms for c in bottom.cohorts]:
            cohort.fold(points)
        if len(self.rungs) > len(self.bottoms):
            signals = self._climb(points, cotangents, reading)
            for rung in reversed(self.rungs):
                if not isinstance(rung, TaskRung) and rung.place.number in signals:
                    rung.move(*signals[rung.place.number], loss)
        for bottom in reversed(self.bottoms):
            bottom.move(points, grads, loss, scale * self.guard.shrink)
        self.guard.moved(self.bottoms, points, reading.norm, scale)

    def _climb(self, points: Params, cotangents: Params, reading: Reading) -> dict[int, Pulled]:
        """What reaches each upper level that is due; nothing for those that read losses alone."""
        pulled: dict[int, Pulled] = {}
        due: dict[int, Pulled] = {}
        sums = iter(reading.sums)
        for number, rung in enumerate(self.rungs):
            if isinstance(rung, Searcher):
                due[number] = Pulled([], 0.0)
                continue
            if isinstance(rung, TaskRung):
                found = rung.pull(points, cotangents, next(sums), reading.norm)
            else:
                below = [pulled[m] for m in self.graph.subjects[number] if m in pulled]
                if not below:
                    continue
                signal = summed([[part.signal[i] for i in rung.indices] for part in below])
                due[number] = Pulled(signal, sum(part.bound for part in below))
                found = rung.pull(signal)
            if found is not None:
                pulled[number] = found
        return due

    def eval_points(self, points: Params) -> Params:
        """Where the levels would have the model used, tensor by tensor."""
        found = list(points)
        for cohort in [c for bottom in self.bottoms for c in bottom.cohorts]:
            for i, value in zip(cohort.indices, cohort.eval_points(points), strict=True):
                found[i] = value
        return found

    def extend(self, names: Sequence[str]) -> None:
        """More tensors, after those there are; each level of the model takes those that its patterns match."""
        self.graph.names[TASK] = [*self.graph.names[TASK], *names]
        for bottom in self.bottoms:
            bottom.indices = self.graph.moved(bottom.place.number, self.graph.names[TASK])

    def homes(self, points: Params) -> list[torch.device]:
        """Where each level computes: beside what it moves."""
        return [points[0].device if isinstance(r, TaskRung) else r.moves.tensors()[0].device for r in self.rungs]

    def acted(self) -> dict[str, int]:
        """How often the guards acted."""
        found = dict(self.guard.counts)
        for rung in self.rungs:
            if not isinstance(rung, TaskRung):
                found |= {f"level{rung.place.number + 1}.{key}": count for key, count in rung.counts.items()}
        return found

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "slots": {name: slot.tree() for name, slot in self.slots.items()},
            "rungs": [rung.tree() for rung in self.rungs],
            "guard": self.guard.tree(),
        }

    def load(self, saved: dict[str, Any], points: Params, where: str) -> None:
        """Continue from :meth:`tree`.

        Raises:
            RecoptError: if it is of another stack.
        """
        if list(saved["slots"]) != list(self.slots) or len(saved["rungs"]) != len(self.rungs):
            raise RecoptError(f"{where} was saved by another stack ({', '.join(saved['slots'])}): build that one.")
        for name, slot in self.slots.items():
            slot.load(saved["slots"][name], where)
        for rung, part in zip(self.rungs, saved["rungs"], strict=True):
            rung.load(part, points, where)
        self.guard.load(saved["guard"])


def _rung(place: Place, graph: Graph, slots: Mapping[str, Slot]) -> Rung:
    """The level that stands at ``place``."""
    if place.level.moves == TASK:
        return TaskRung(place, graph.moved(place.number, graph.names[TASK]))
    moves = slots[place.level.moves]
    indices = graph.moved(place.number, moves.names)
    return upper_rung(place, moves, indices) if graph.order(place.number) else Searcher(place, moves, indices)
