"""A tower over some of an optimizer's tensors, with its state: what one step of a training loop does to it."""

from __future__ import annotations

import copy
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError, StateError
from ..checking.numbers import as_given
from ..contracts.strategy import Params
from ..core.carriers import Setting
from ..core.evaluation import Evaluation
from ..core.tower import Tower
from ..levels.graph import Graph
from ..levels.judgement import Guard
from ..levels.level import TASK
from ..levels.state import Numbers, RunState, SlotState
from ..rules.columns import ColumnMover
from ..rules.coordinates import widened
from ..rules.numbers import made_of_numbers
from ..rules.shards import Shards
from ..rules.tensors import TensorMover
from ..rules.told import told
from ..search.trials import Trials
from ..stacks.imported import Imported
from .remake import closed_up, remake


def _nothing(*_: Any) -> Any:
    """Nothing: a training loop that is not ours cannot go back, and has no record."""


class Driver:
    """One stack at work on tensors that a training loop gives gradients of.

    Args:
        graph: the levels; its strategies are copied.
        points: the tensors it moves (real views, at least float32), in the order of the graph's names.
        fused: whether closed forms are used where strategies have them.
        seed: of the generators that strategies draw from.
        shards: how the tensors are split over processes; ``points`` are the local parts.

    Attributes:
        averages: whether a level would have the model used elsewhere than at its present point.
        reader: the slot of a strategy that reads the loss besides the gradients, if there is one.
        needs_loss: whether a step asks for the loss.

    Raises:
        RecoptError: if the tensors are split and a level of the model needs whole ones.
    """

    returns = False  # and so it can be the home of trials
    copy = go = flush = staticmethod(_nothing)

    def __init__(self, graph: Graph, points: Params, *, fused: bool, seed: int, shards: Shards) -> None:
        widest = max(points, key=lambda p: torch.finfo(p.dtype).bits)
        graph.slots = {name: copy.deepcopy(strategy) for name, strategy in graph.slots.items()}
        graph = widened(graph, points)
        for strategy in graph.slots.values():
            if not made_of_numbers(strategy):
                strategy.to(widest.device, widest.dtype)
        setting = Setting(closed=fused, device=widest.device, dtype=widest.dtype, seed=seed, remake=True)
        self._warned = False
        self._build(graph, setting, shards)
        _check_sharded(self)
        self.state: RunState = self.tower.beginnings.first(SlotState([], []))

    def _build(self, graph: Graph, setting: Setting, shards: Shards) -> None:
        """Everything but the state."""
        self.graph, self.shards = graph, shards
        self.tower = Tower(graph, setting, lambda state: graph.names[TASK], shards=shards)
        self.tower.search_with(Trials(self.tower, self))
        movers = [(graph.levels[n], graph.slots[graph.levels[n].by]) for n in graph.movers[TASK]]
        self.averages = any(x.average is not None or strategy.keeps_mean() for x, strategy in movers)
        orders = {graph.order(n) for n in graph.movers[TASK]}
        self.zero_order = 0 in orders
        if len(orders) > 1:
            raise RecoptError(
                "Level 1 has zero-order strategies beside others, whose gradients would be those of its trials: give "
                "each an optimizer of its own."
            )
        for number, level in enumerate(graph.levels):
            by = graph.slots[level.by]
            if level.moves != TASK and (by.paired or by.keeps_members()):
                has = "compares runs on the same batches" if by.paired else "has members with runs of their own"
                raise RecoptError(
                    f"Level {number + 1}: '{level.by}' {has}, to which a loop that is not recopt's cannot go back: "
                    "take annealing or evolution, or 'recopt run'."
                )
        self.reader = next((name for name, strategy in graph.slots.items() if strategy.reads_loss), None)
        searches = any(
            graph.order(n) == 0 and x.moves != TASK and x.population != 1 for n, x in enumerate(graph.levels)
        )
        self.needs_loss = self.reader is not None or searches
        # Tapes and states may hold the gradients that they were given, which the next backward pass writes into.
        self._holds = any(isinstance(self.tower.carriers.movers[n], TensorMover) for n in graph.movers[TASK])

    def step(
        self, points: Params, grads: Sequence[Tensor | None], scale: float, loss: Tensor | None, after: Params | None
    ) -> None:
        """One step on ``grads`` (None where a tensor has none), in place on ``points``.

        Args:
            scale: what a learning-rate scheduler multiplies the updates of level 1 by.
            loss: the loss that belongs to ``grads``, if it is known.
            after: gradients of the meta-loss at the present point, if it is another loss than the trained one.

        Raises:
            StateError: if a strategy reads the loss and it is not known.
        """
        if loss is None and self.needs_loss:
            _ask_for_loss(self)
        if any(g is not None for g in grads):
            grads = [None if g is None else g.clone() for g in grads] if self._holds else grads
            self._advance(points, Evaluation(loss, grads, after=after), scale)

    def search(self, points: Params, loss: Tensor, scores: Callable[[int, Sequence[Params]], Sequence[Tensor]]) -> None:
        """One step of a zero-order strategy on level 1 from ``points``, which have ``loss``; in place."""
        self._advance(points, Evaluation(loss, scores=scores), 1.0)

    def _advance(self, points: Params, found: Evaluation, scale: float) -> None:
        slot, memory = self.state.task, self.state.guard
        slot.params = list(points)
        skipped = memory.counts.get("skipped", 0) if memory else 0
        top = self.tower.up(self.state, found)
        self.tower.down(self.state, top, found, scale)
        slot.params = []
        memory = self.state.guard
        if memory is not None and memory.counts.get("skipped", 0) > skipped and not self._warned:
            self._warned = True
            warnings.warn(
                f"recopt.Optimizer skipped a step: {_cause(memory, found)}. Further ones are counted in opt.guards() "
                "without a warning.",
                RuntimeWarning,
                stacklevel=level_of_the_caller(),
            )

    def eval_points(self, points: Params) -> Params:
        """The points at which the levels would have the model used, tensor by tensor."""
        slot = self.state.task
        slot.params = list(points)
        found = self.tower.bottom.eval_points(self.state)
        slot.params = []
        return found

    def hyperparameters(self) -> dict[str, float]:
        """By slot and name, in their natural unit, with what the rules of the model tell of their state."""
        found: dict[str, float] = {}
        for name, strategy in self.graph.slots.items():
            slot, names = self.state.slots[name], self.graph.names[name]
            if isinstance(slot, Numbers):
                found |= {f"{name}.{key}": as_given(slot.value[key]) for key in names if key in strategy._domains}
            else:
                natural = strategy.natural(dict(zip(names, [p.detach() for p in slot.params], strict=True)))
                found |= {f"{name}.{key}": as_given(v.item(), torch.finfo(v.dtype).bits) for key, v in natural.items()}
        for number in self.graph.movers[TASK]:
            name = self.graph.levels[number].by
            slot, parts = self.state.slots[name], self.state.levels[number].parts
            found |= told(name, self.graph.slots[name], self.graph.names[name], slot, parts)
        return found

    def acted(self) -> dict[str, int]:
        """The number of times that each guard acted."""
        counts = self.state.guard.counts if self.state.guard else {}
        found = {key: counts.get(key, 0) for key in ("skipped", "restored", "bounded")}
        for number, own in enumerate(self.state.levels):
            if self.graph.levels[number].moves != TASK:
                found |= {f"level{number + 1}.{key}": own.counts.get(key, 0) for key in ("skipped", "bounded")}
        return found

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: a graph cannot be copied, and tapes are made anew from what they were made from."""
        for mover in self.tower.carriers.movers:
            if isinstance(mover, TensorMover):
                mover.loaded.leave()
        imported = Imported.of(type(strategy) for strategy in self.graph.slots.values())
        return {"imported": imported, "graph": self.graph, "setting": self.tower.setting, "shards": self.shards,
                "warned": self._warned, "state": closed_up(self.state)}  # fmt: skip

    def __setstate__(self, made: dict[str, Any]) -> None:
        self._warned = made["warned"]
        self._build(made["graph"], made["setting"], made["shards"])
        self.state = made["state"]
        for name in self.graph.slots:
            self.tower.slots.leaves(self.state.slots[name], name)
        remake(self.tower.forward, self.state)


def _check_sharded(driver: Driver) -> None:
    """Raise RecoptError if tensors are split that a level needs whole."""
    graph, movers = driver.graph, driver.tower.carriers.movers
    for number in graph.movers[TASK] if driver.shards else []:
        level, mover = graph.levels[number], movers[number]
        if driver.tower.carriers.wide[number]:
            raise RecoptError(
                "scope='coordinate' needs whole tensors, but the parameters are sharded over processes (DTensor): "
                "leave it out, or use DistributedDataParallel."
            )
        if not isinstance(mover, ColumnMover) or not mover.rule.split or level.normalize not in (None, "none"):
            raise RecoptError(
                f"'{level.by}' on level {number + 1} needs whole tensors, but the parameters are "
                "sharded over processes (DTensor): use sgd, adam, rmsprop or adagrad there, fused, without "
                "normalize and with every=1 (more only where lr alone is moved), or DistributedDataParallel."
            )


def _ask_for_loss(driver: Driver) -> None:
    """Raise StateError that says who reads the loss, and how to give it."""
    graph = driver.graph
    searching = [n for n, x in enumerate(graph.levels) if not graph.order(n) and x.moves != TASK]
    who = (f"'{driver.reader}' reads the loss besides the gradients" if driver.reader is not None else
           f"Level {searching[0] + 1} is zero-order and needs losses")  # fmt: skip
    raise StateError(
        f"{who}: call opt.step(loss=loss), or opt.step(closure) with a function that computes and returns it; where "
        "the step is not yours to call, opt.observe(loss) before it, or the trainer's callback of recopt.integrations."
    )


def _cause(memory: Guard, found: Evaluation) -> str:
    """The reason for which the guard skipped a step."""
    if found.loss is not None and not bool(torch.isfinite(found.loss)):
        return "the loss is not finite"
    if found.overflows:
        return "the squares of the gradient overflow"
    return "the loss exploded" if memory.tasks[0].exploded else "the gradient is not finite"


def level_of_the_caller() -> int:
    """The number of frames between the function that asks and the user's code, at which a warning is of use."""
    for level, (frame, _) in enumerate(traceback.walk_stack(sys._getframe(1)), 1):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("recopt", "torch"):
            return level
    return 1
