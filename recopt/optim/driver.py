"""A tower over some of an optimizer's tensors, with its state: what one step of a training loop does to it."""

from __future__ import annotations

import copy
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..contracts.errors import RecoptError, StateError
from ..contracts.strategy import Params
from ..contracts.trees import tree_map
from ..core.carriers import Setting
from ..core.evaluation import Evaluation
from ..core.tower import Tower
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.state import Numbers, RunState, SlotState
from ..rules.columns import ColumnMover
from ..rules.numbers import NumberMover, made_of_numbers
from ..rules.shards import Shards
from ..rules.tensors import TensorMover
from ..search.trials import Trials
from .fitting import Misfit, check, check_windows
from .plain import from_plain, to_plain
from .remake import closed_up, remake


class Driver:
    """One stack at work on tensors that a training loop gives gradients of.

    Args:
        graph: the levels; its strategies are copied.
        points: the tensors it moves (real views, at least float32), in the order of the graph's names.
        fused: whether closed forms are used where strategies have them.
        seed: of the generators that strategies draw from.
        shards: how the tensors are split over processes; ``points`` are the local parts.

    Raises:
        RecoptError: if the tensors are split and a level of the model needs whole ones.
    """

    returns = False
    """There is no way back in a training loop that is not ours."""

    def __init__(self, graph: Graph, points: Params, *, fused: bool, seed: int, shards: Shards) -> None:
        widest = max(points, key=lambda p: torch.finfo(p.dtype).bits)
        graph.slots = {name: copy.deepcopy(strategy) for name, strategy in graph.slots.items()}
        for strategy in graph.slots.values():
            if not made_of_numbers(strategy):
                strategy.to(widest.device, widest.dtype)
        setting = Setting(closed=fused, device=widest.device, dtype=widest.dtype, seed=seed, remake=True)
        self._warned = False
        self._build(graph, setting, shards)
        self._check_sharded()
        self.state = self.tower.slots.first(SlotState([], []))

    def _build(self, graph: Graph, setting: Setting, shards: Shards) -> None:
        """Everything but the state."""
        self.graph, self.shards = graph, shards
        self.tower = Tower(graph, setting, lambda state: graph.names[TASK], shards=shards)
        self.tower.search_with(Trials(self.tower, self))
        orders = {graph.order(n) for n in graph.movers[TASK]}
        self.zero_order = 0 in orders
        if len(orders) > 1:
            raise RecoptError(
                "Level 1 has zero-order strategies beside others, whose gradients would be those of its trials: give "
                "each an optimizer of its own."
            )
        self.reader = next((name for name, strategy in graph.slots.items() if strategy.reads_loss), None)
        searches = any(graph.order(n) == 0 and x.moves != TASK for n, x in enumerate(graph.levels))
        self.needs_loss = self.reader is not None or searches
        # Tapes and states may hold the gradients that they were given, which the next backward pass writes into.
        self._holds = any(isinstance(self.tower.carriers.movers[n], TensorMover) for n in graph.movers[TASK])

    def _check_sharded(self) -> None:
        for number in self.graph.movers[TASK] if self.shards else []:
            level = self.graph.levels[number]
            columns = isinstance(self.tower.carriers.movers[number], ColumnMover)
            if not columns or level.normalize not in (None, "none"):
                raise RecoptError(
                    f"'{level.by}' on level {number + 1} needs whole tensors, but the parameters are "
                    "sharded over processes (DTensor): use sgd, adam, rmsprop or adagrad there, fused, without "
                    "normalize and with every=1 (more only where lr alone is moved), or DistributedDataParallel."
                )

    # steps

    def step(
        self, points: Params, grads: Sequence[Tensor | None], scale: float, loss: Tensor | None, after: Params | None
    ) -> None:
        """One step on ``grads`` (None where a tensor has none), in place on ``points``.

        Args:
            scale: what a learning-rate scheduler multiplies the updates of level 1 by.
            loss: the loss that belongs to ``grads``, if it is known.
            after: gradients of the meta-loss at the present point, if it is another loss than the trained one.

        Raises:
            RecoptError: if a strategy reads the loss and it is not known.
        """
        if loss is None and self.reader is not None:
            raise StateError(
                f"'{self.reader}' reads the loss besides the gradients: call opt.step(loss=loss), or opt.step(closure) "
                "with a function that computes and returns it."
            )
        if loss is None and self.needs_loss:
            number = next(n for n, x in enumerate(self.graph.levels) if not self.graph.order(n) and x.moves != TASK)
            raise StateError(
                f"Level {number + 1} is zero-order and needs losses: call opt.step(closure), or "
                "opt.step(loss=loss) after loss.backward()."
            )
        if any(g is not None for g in grads):
            grads = [None if g is None else g.clone() for g in grads] if self._holds else grads
            self._advance(points, Evaluation(loss, grads, after=after), scale)

    def search(self, points: Params, loss: Tensor, score: Callable[[int, Params], Tensor]) -> None:
        """One step of a zero-order strategy on level 1 from ``points``, which have ``loss``; in place."""
        self._advance(points, Evaluation(loss, score=score), 1.0)

    def _advance(self, points: Params, found: Evaluation, scale: float) -> None:
        slot, memory = self.state.slots[TASK], self.state.guard
        assert isinstance(slot, SlotState)
        slot.params = list(points)
        skipped = memory.counts.get("skipped", 0) if memory else 0
        top = self.tower.up(self.state, found)
        self.tower.down(self.state, top, found, scale)
        slot.params = []
        memory = self.state.guard
        if memory is not None and memory.counts.get("skipped", 0) > skipped and not self._warned:
            self._warned = True
            known = found.loss is None or bool(torch.isfinite(found.loss))
            what = f"the {'gradient' if known else 'loss'} is not finite"
            what = "the loss exploded" if any(memory.exploded) else what
            warnings.warn(
                f"recopt.Optimizer skipped a step: {what}. Further ones are counted in opt.guards() without a warning.",
                RuntimeWarning,
                stacklevel=_level_of_the_caller(),
            )

    # a home for trials

    def copy(self) -> RunState:
        """Nothing goes back."""
        raise NotImplementedError("a training loop cannot go back")

    def go(self, to: RunState) -> None:
        """Nothing goes back."""
        raise NotImplementedError("a training loop cannot go back")

    def hand_on(self) -> None:
        """There is no record."""

    # what was found

    def eval_points(self, points: Params) -> Params:
        """The points at which the levels would have the model used, tensor by tensor."""
        slot = self.state.slots[TASK]
        assert isinstance(slot, SlotState)
        slot.params = list(points)
        found = self.tower.bottom.eval_points(self.state)
        slot.params = []
        return found

    def averages(self) -> bool:
        """True if a level would have the model used elsewhere than at its present point."""
        movers = [self.graph.levels[n] for n in self.graph.movers[TASK]]
        return any(x.average is not None or self.graph.slots[x.by].keeps_mean() for x in movers)

    def hyperparameters(self) -> dict[str, float]:
        """By slot and name, in their natural unit."""
        found: dict[str, float] = {}
        for name, space in self.tower.carriers.spaces.items():
            numbers, declared = self.state.slots[name], self.graph.slots[name]._domains
            assert isinstance(numbers, Numbers)
            found |= {f"{name}.{key}": numbers.value[key] for key in space.names if key in declared}
        return found

    def acted(self) -> dict[str, int]:
        """The number of times that each guard acted."""
        counts = self.state.guard.counts if self.state.guard else {}
        found = {key: counts.get(key, 0) for key in ("skipped", "restored", "bounded")}
        for number, own in enumerate(self.state.levels):
            if self.graph.levels[number].moves != TASK:
                found |= {f"level{number + 1}.{key}": own.counts.get(key, 0) for key in ("skipped", "bounded")}
        return found

    def extend(self, names: Sequence[str]) -> None:
        """More tensors, after those there are; each level of the model takes those that its patterns match."""
        self.graph.names[TASK] = [*self.graph.names[TASK], *names]

    # saving and copying

    def kinds(self) -> list[str]:
        """By level, how it is carried: what of its state there is depends on it."""
        return [type(mover).__name__ for mover in self.tower.carriers.movers]

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on; plain containers, numbers and tensors (shared)."""
        found: dict[str, Any] = to_plain(closed_up(self.state))
        return found

    def restored(self, saved: Any, points: Params, where: str) -> RunState:
        """The state that :meth:`tree` was taken of, for :attr:`state`.

        Raises:
            RecoptError: if it is of another stack, or damaged.
        """
        try:
            state: RunState = from_plain(saved)
            check(state, self.tower, self.state, points)
            self._home(state)
            remake(self.tower.forward, state)
            check_windows(state, self.tower, self.state, points)
        except Misfit as why:
            raise RecoptError(f"{where} does not fit ({why}): it is damaged, or of another stack or version.") from None
        except Exception as why:  # whatever the strategies make of what they never wrote
            raise RecoptError(f"{where} is damaged, or of another version ({type(why).__name__}: {why}).") from why
        return state

    def _home(self, state: RunState) -> None:
        """Move tensors to where they are computed with, and make numbers what their coordinates say."""
        movers, device = self.tower.carriers.movers, self.tower.setting.device
        for number, mover in enumerate(movers):
            if not isinstance(mover, NumberMover):
                state.levels[number] = tree_map(partial(_moved, device=device), state.levels[number])
        for name, slot in state.slots.items():
            space = self.tower.carriers.spaces.get(name)
            if isinstance(slot, Numbers) and space is not None:
                version, leaves = slot.version, list(slot.leaves)
                space.put(slot, range(len(space.names)), list(slot.coords))
                slot.version, slot.leaves = version, [None if x is None else x.cpu() for x in leaves]
            elif isinstance(slot, SlotState) and name != TASK:
                here = self.state.slots[name].params
                slot.params = [p.to(q.device, q.dtype) for p, q in zip(slot.params, here, strict=True)]
            self.tower.slots.leaves(state, name)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: a graph cannot be copied, and tapes are made anew from what they were made from."""
        for mover in self.tower.carriers.movers:
            if isinstance(mover, TensorMover):
                mover.loaded.leave()
        tree = tree_map(torch.clone, self.tree())
        return {"graph": self.graph, "setting": self.tower.setting, "shards": self.shards, "warned": self._warned,
                "tree": tree}  # fmt: skip

    def __setstate__(self, made: dict[str, Any]) -> None:
        self._warned = made["warned"]
        self._build(made["graph"], made["setting"], made["shards"])
        self.state = from_plain(made["tree"])
        for name in self.graph.slots:
            self.tower.slots.leaves(self.state, name)
        remake(self.tower.forward, self.state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Driver:
        """A copy that goes on alike; the processes that hold parts of the tensors are the same."""
        made = Driver.__new__(Driver)
        memo[id(self)] = made
        told = self.__getstate__()
        made.__setstate__({**told, "graph": copy.deepcopy(told["graph"], memo)})
        return made


def _moved(t: Tensor, device: torch.device) -> Tensor:
    """``t`` on ``device``; generators' states stay where they are."""
    return t if t.dtype == torch.uint8 else t.to(device)


def _level_of_the_caller() -> int:
    """The number of frames between the function that asks and the user's code, at which a warning is of use."""
    for level, (frame, _) in enumerate(traceback.walk_stack(sys._getframe(1)), 1):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("recopt", "torch"):
            return level
    return 1
