"""The tasks of a run, sampled from a family by number, and their models."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.strategy import Params
from ..contracts.task import Task
from ..levels.seeds import mix
from ..levels.state import SlotState, Start
from .loss_slot import wrapped
from .randomness import seeded


@dataclass
class Drawn:
    """The tasks of one draw, which run side by side.

    ``names`` are those of the parameters that may be moved, ``moving`` says which of all parameters they are, and
    ``way`` is the way in which they are evaluated, once one was chosen (see :mod:`recopt.engine.ways`).
    """

    tasks: list[Task]
    names: list[str]
    moving: list[bool]
    way: Any = None

    def joined(self, params: Params, buffers: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The values of one task in the order of ``parameters()``, and of ``buffers()``."""
        moved, still = iter(params), iter(buffers)
        return [next(moved) if moving else next(still) for moving in self.moving], list(still)


class Family:
    """Draws the tasks of a run; draw number n is a pure function of the seed and n.

    Args:
        task: the family that is sampled.
        total: how many tasks run side by side; above 1 every tensor of the task's slot has a leading dimension.
        seed: of the run. The first task of a run of one has exactly this seed.
        share: the numbers of those that are this process's; None: all.

    Attributes:
        count: how many those are; ``first``: the number of the first of them.
    """

    def __init__(
        self, task: Task, total: int, seed: int, device: torch.device, dtype: torch.dtype, share: range | None = None
    ) -> None:
        self.task, self.total, self.seed, self.device, self.dtype = task.to(device), total, seed, device, dtype
        self.share = range(total) if share is None else share
        self.count, self.first, self.batched = len(self.share), self.share.start, total > 1
        self.uniform = type(self.task).draw is Task.draw  # all draws are of one kind
        with seeded(task.seed, device):
            loss = self.task.loss_parameters()
        self.loss = None if loss is None else loss.to(device, dtype)
        self._found: dict[int, Drawn] = {}
        self._last: weakref.ref[nn.Module] | None = None

    def drawn(self, draw: int) -> Drawn:
        """Draw number ``draw``, counted from 0."""
        found = self._found.get(draw)
        if found is None:
            # A run may go back by one draw, where trials are taken back; older ones are not needed again.
            self._found = {k: v for k, v in self._found.items() if k >= draw - 2}
            asked = self.share if self.uniform else range(self.total)
            with seeded(self.seed, self.device):
                drawn = self.task.draw(self._seeds(draw, asked))
                tasks = wrapped(drawn[asked.index(self.first) :][: self.count], self.loss)
            module = self._made(tasks[0])
            names = [n for n, p in module.named_parameters() if p.requires_grad]
            found = Drawn(tasks, names, [p.requires_grad for p in module.parameters()])
            if self.uniform and self._found:
                before = next(iter(self._found.values()))
                found.names = before.names if before.names == names else names
            self._found[draw] = found
        return found

    def _seeds(self, draw: int, places: range) -> list[int]:
        return [self.seed if draw == n == 0 else mix(self.seed, draw, n) for n in places]

    def starts(self, slot: SlotState) -> list[Start]:
        """The start of each of the slot's tasks."""
        return slot.starts or [Start(n, slot.draw, 0) for n in self.share]

    def members(self, slot: SlotState) -> list[Task]:
        """The slot's tasks."""
        if not slot.starts:
            return self.drawn(slot.draw).tasks
        return [self.drawn(start.draw).tasks[start.place - self.first] for start in slot.starts]

    def check_kinds(self, draws: Iterable[int]) -> None:
        """Refuse draws whose tasks cannot run side by side. A family that draws in its own way may give several kinds.

        Raises:
            RecoptError: if they are not all of one kind.
        """
        if self.uniform:
            return
        if len({kind(self.task.draw(self._seeds(draw, range(self.total)))[0]) for draw in draws}) > 1:
            raise RecoptError(
                "With 'stagger' tasks of several draws run side by side, and the draws of this family differ in kind: "
                "drop it, or take one kind of task."
            )

    def alone(self, dtype: torch.dtype) -> Family:
        """The family of this process's first task alone, in another dtype."""
        return Family(self.task, self.total, self.seed, self.device, dtype, range(self.first, self.first + 1))

    def module(self, draw: int, n: int = 0) -> nn.Module:
        """A fresh model of task ``n`` of this process in a draw; torch's global generators are left as they were."""
        return self._made(self.drawn(draw).tasks[n])

    def _made(self, task: Task) -> nn.Module:
        with seeded(task.seed, self.device):
            module = task.model()
            _check(module)
            if self._last is not None and self._last() is module:
                raise RecoptError("The task's model() gives the same object twice: let it make a fresh one every time.")
            self._last = weakref.ref(module)
            module = module.to(self.device, self.dtype)
            if any(is_lazy(t) for t in (*module.parameters(), *module.buffers())):
                _fill(module, task, self.place(task.batch(0, "train")))
        return module

    def place(self, batch: Any) -> Any:
        """A batch on the run's device, floats in its dtype."""

        def there(leaf: Tensor) -> Tensor:
            dtype = self.dtype if leaf.is_floating_point() else leaf.dtype
            if leaf.dtype == dtype and leaf.device == self.device:
                return leaf
            return leaf.to(self.device, dtype, non_blocking=True)

        return trees.tree_map(there, batch)

    def fresh(self, draw: int, starts: Sequence[Start] = ()) -> SlotState:
        """The task slot at the start of a draw; or of some of its tasks, each of the draw that ``starts`` says."""
        values = []
        for start in starts or [Start(n, draw, 0) for n in self.share]:
            module = self.module(start.draw, start.place - self.first)
            kept = [p.detach() for p in module.parameters() if not p.requires_grad]
            moved = [p.detach() for p in module.parameters() if p.requires_grad]
            values.append((moved, kept + [b.detach().clone() for b in module.buffers()]))
        params, buffers = trees.stack(values) if self.batched else values[0]
        return SlotState(params, buffers, draw=draw, starts=list(starts))


def kind(task: Task) -> tuple[Any, ...]:
    """The class and options of a task, and of those that it holds."""
    within = [kind(value) for value in vars(task).values() if isinstance(value, Task)]
    return (type(task), repr(getattr(task, "_options", None)), *within)


def _check(module: nn.Module) -> None:
    """Raise RecoptError for a model with parameters that cannot be moved."""
    if not isinstance(module, nn.Module):
        raise RecoptError(f"The task's model() gives a {type(module).__name__}: give a torch.nn.Module.")
    for name, p in module.named_parameters():
        if p.is_complex():
            raise RecoptError(f"The model's parameter '{name}' is complex: hold its real and imaginary part as two.")


def _fill(module: nn.Module, task: Task, batch: Any) -> None:
    """Give lazy layers their shapes, by a first call that leaves nothing else behind."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    task.loss(module, batch)
    for m, training in modes:
        m.training = training
    left = next((n for n, t in (*module.named_parameters(), *module.named_buffers()) if is_lazy(t)), None)
    if left:
        raise RecoptError(f"The shape of the lazy '{left}' is not known after a first batch: the loss must use it.")
