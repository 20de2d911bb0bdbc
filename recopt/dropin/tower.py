"""A tower: the levels of one stack over one set of tensors, and what one step of training does to them.

Chandra et al. 2022 (1909.13371), as in DESIGN "No graph needed": on the way up, the hypergradient of each level
is the vector-Jacobian product of the last update of the level below with the signal that came after it; then
the levels step from the top down, so that the lower ones already use what the upper ones found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..domains import Positive
from ..errors import RecoptError
from ..graph import Graph
from ..level import TASK
from ..strategy import Params
from .guard import Guard
from .kernel import Sums
from .rungs import Place, TaskRung
from .searcher import Searcher, search
from .shards import Shards
from .signals import size
from .slot import Slot
from .upper import UpperRung


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
        like = points[0]
        self.slots = {name: Slot(name, strategy, like) for name, strategy in graph.slots.items()}
        self.rungs: list[TaskRung | UpperRung | Searcher] = []
        for number, level in enumerate(graph.levels):
            above = [m for m in range(len(graph.levels)) if number in graph.subjects[m] and graph.order(m)]
            window = (graph.levels[above[0]].every or 1) if above else 0
            cosine = any(graph.levels[m].normalize == "cosine" for m in above)
            place = Place(number, level, self.slots[level.by], window, seed * 1000 + number, fused, guard, cosine,
                          self.shards)  # fmt: skip
            if level.moves == TASK:
                names = graph.names[TASK]
                self.rungs.append(TaskRung(place, graph.moved(number, names)))
                continue
            moves = self.slots[level.moves]
            indices = graph.moved(number, moves.names)
            kind = UpperRung if graph.order(number) else Searcher
            self.rungs.append(kind(place, moves, indices))
        # What the levels above each one ask of it.
        count = range(len(self.rungs))
        levels = [[graph.levels[n] for n in count if m in graph.subjects[n]] for m in count]
        self.objective = [next((above.objective or "mean" for above in found), "mean") for found in levels]
        self.bottoms = [r for r in self.rungs if isinstance(r, TaskRung)]
        for bottom in self.bottoms:
            bottom.moved = self._moved(bottom)
            bottom.rate = self._rate(bottom)
        orders = {graph.order(r.place.number) for r in self.bottoms}
        self.zero_order = 0 in orders
        if len(orders) > 1:
            raise RecoptError(
                "Level 1 has zero-order strategies beside others, whose gradients would be those of its trials: give "
                "each an optimizer of its own."
            )
        self.reader = next((name for name, strategy in graph.slots.items() if strategy.reads_loss), None)
        self.needs_loss = self.reader is not None or any(isinstance(r, Searcher) for r in self.rungs)
        if self.shards:
            self._check_sharded()

    def _check_sharded(self) -> None:
        for bottom in self.bottoms:
            level = bottom.place.level
            if bottom.closed() is None or level.normalize not in (None, "none"):
                raise RecoptError(
                    f"'{level.by}' on level {bottom.place.number + 1} needs whole tensors, but the parameters are "
                    "sharded over processes (DTensor): use sgd, adam, rmsprop or adagrad there, fused, without "
                    "normalize and with every=1 (more only where lr alone is moved), or DistributedDataParallel."
                )

    def _rate(self, bottom: TaskRung) -> int | None:
        """The index of the coordinate of its learning rate, if levels above move it and it is a logarithm."""
        slot, names = bottom.place.by, bottom.place.by.names
        if not slot.scalar or "lr" not in names or type(slot.domains[names.index("lr")]) is not Positive:
            return None
        return names.index("lr") if "lr" in bottom.moved else None

    def _moved(self, bottom: TaskRung) -> frozenset[str]:
        """The parameters of its strategy that levels above move."""
        slot = bottom.place.by
        above = [r for r in self.rungs if not isinstance(r, TaskRung) and r.moves is slot]
        return frozenset(slot.names[i] for r in above for i in r.indices)

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
        if all(g is None for g in grads):
            return
        cotangents = after if after is not None else [torch.zeros_like(p) if g is None else g
                                                      for g, p in zip(grads, points, strict=True)]  # fmt: skip
        norms, sums = self._read(points, grads, cotangents)
        total = math.sqrt(sum(n * n for n in norms))
        if not self.guard.passes(self, points, total, None if loss is None else float(loss)):
            return
        if len(self.rungs) > len(self.bottoms):
            signals = self._climb(points, cotangents, sums, total, loss)
            for rung in reversed(self.rungs):
                if not isinstance(rung, TaskRung) and rung.place.number in signals:
                    rung.move(*signals[rung.place.number], loss)
        for bottom in reversed(self.bottoms):
            bottom.move(points, grads, loss, scale * self.guard.shrink)
        self.guard.moved(self, points, total, scale)

    def _read(
        self, points: Params, grads: Sequence[Tensor | None], cotangents: Params
    ) -> tuple[list[float], list[list[dict[str, float]]]]:
        """The norms of the gradients, and the kernels' sums, with one read from the device."""
        there = [g for g in grads if g is not None]
        parts: list[Tensor] = list(torch._foreach_norm(there))
        found: list[list[Sums]] = []
        for rung in self.bottoms:
            found.append(rung.measure(points, cotangents) if rung.place.window else [])
        layout = [[{k: len(v) for k, v in sums.items()} for sums in per] for per in found]
        for per in found:
            for sums in per:
                for terms in sums.values():
                    parts += terms
        values = _numbers(parts)
        if self.shards:
            squares = [n * n for n in values[: len(there)]]
            values = self.shards.totals([*squares, *values[len(there) :]], points[0].device)
            values[: len(there)] = [math.sqrt(n) for n in values[: len(there)]]
        numbers = iter(values)
        norms = [next(numbers) for _ in there]
        read = [[{k: sum(next(numbers) for _ in range(n)) for k, n in sizes.items()} for sizes in per]
                for per in layout]  # fmt: skip
        return norms, read

    def _climb(
        self, points: Params, cotangents: Params, sums: list[list[dict[str, float]]], total: float, loss: Tensor | None
    ) -> dict[int, tuple[Any, float]]:
        """Per upper level that is due: its signal, and the norms' product that ``cosine`` divides by."""
        pulled: dict[int, tuple[list[Any], float]] = {}
        due: dict[int, tuple[Any, float]] = {}
        known = iter(sums)
        for number, rung in enumerate(self.rungs):
            level = rung.place.level
            if isinstance(rung, Searcher):
                due[number] = (None, 0.0)
                continue
            if isinstance(rung, TaskRung):
                read = next(known)
                if not rung.place.window or not rung.recorded():
                    continue
                rung.feed(cotangents, read, self.objective[number])
                if rung.recorded() >= rung.place.window:
                    bound = rung.length(points) * total if rung.place.cosine else 0.0
                    pulled[number] = rung.pull(), bound
                continue
            signal, bound = self._gather(number, level.moves, pulled)
            if signal is None:
                continue
            due[number] = signal, bound
            if rung.place.window and rung.recorded():
                bound = rung.length() * size(signal) if rung.place.cosine else 0.0
                found = rung.pull(signal, self.objective[number])
                if found is not None:
                    pulled[number] = found, bound
                    rung.clear()
        return due

    def _gather(
        self, number: int, moves: str, pulled: dict[int, tuple[list[Any], float]]
    ) -> tuple[list[Any] | None, float]:
        """The sum of what was pulled through the subjects of a level, for the coordinates it moves."""
        total: list[Any] | None = None
        bound = 0.0
        indices = self.rungs[number].indices
        for m in self.graph.subjects[number]:
            if m in pulled:
                signal, extra = pulled[m]
                mine = [signal[i] for i in indices]
                total = mine if total is None else [a + b for a, b in zip(total, mine, strict=True)]
                bound += extra
        return total, bound

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

    def search(self, tensors: Sequence[Tensor], closure: Any, sign: float = 1.0) -> Any:
        """One step of a zero-order strategy on level 1, on ``sign`` times the losses that ``closure`` computes."""
        return search(self.bottoms, tensors, closure, sign)

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


def _numbers(parts: Sequence[Tensor]) -> list[float]:
    """0-dimensional tensors as numbers; one read where they are on one device."""
    if not parts:
        return []
    first = parts[0]
    if all(p.dtype == first.dtype and p.device == first.device for p in parts):
        return torch.stack(list(parts)).tolist()
    return [float(p) for p in parts]
