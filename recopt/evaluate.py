"""Evaluations of the task slot: fresh models, losses and gradients, for one task or many side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import tree
from .bridge import Patched, attends, twice_differentiable
from .errors import RecoptError
from .state import SlotState, Start
from .strategy import Params
from .task import Split, Task


def mix(*parts: int) -> int:
    """One seed from several numbers (splitmix64 over the parts)."""
    value = 0
    for part in parts:
        value = (value ^ part) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1


@dataclass
class Drawn:
    """The tasks of one draw, which run side by side, and what their models have in common."""

    tasks: list[Task]
    names: list[str]
    moving: list[bool]
    patched: Patched
    index: dict[int, list[int]] = field(default_factory=dict)


def _kind(task: Task) -> tuple[Any, ...]:
    within = [_kind(value) for value in vars(task).values() if isinstance(value, Task)]
    return (type(task), repr(getattr(task, "_options", None)), *within)


class Evaluator:
    """Draws tasks of a family and evaluates them.

    Args:
        family: the task that is sampled.
        count: how many tasks run side by side; above 1 every tensor of the slot has a leading dimension.
        seed: of the run. The first task of a run of one has exactly this seed.
    """

    def __init__(self, family: Task, count: int, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.family, self.count, self.seed, self.device, self.dtype = family.to(device), count, seed, device, dtype
        self._found: dict[int, Drawn] = {}
        self._attends: dict[int, bool] = {}

    @property
    def batched(self) -> bool:
        """Whether the slot's tensors have a leading dimension over tasks."""
        return self.count > 1

    def drawn(self, draw: int) -> Drawn:
        """Draw number ``draw``: a pure function of the seed and its number."""
        found = self._found.get(draw)
        if found is None:
            # A run may go back by one draw, where trials are taken back; older ones are not needed again.
            self._found = {k: v for k, v in self._found.items() if k >= draw - 2}
            tasks = self.family.draw(self._seeds(draw))
            module = self._made(tasks[0])
            names = [n for n, p in module.named_parameters() if p.requires_grad]
            same = type(self.family).draw is Task.draw and self._found
            patched = next(iter(self._found.values())).patched if same else Patched(module)
            found = self._found[draw] = Drawn(tasks, names, [p.requires_grad for p in module.parameters()], patched)
        return found

    def _seeds(self, draw: int) -> list[int]:
        return [self.seed if draw == n == 0 else mix(self.seed, draw, n) for n in range(self.count)]

    def tasks(self, draw: int) -> list[Task]:
        """The tasks of draw number ``draw``."""
        return self.drawn(draw).tasks

    def starts(self, slot: SlotState) -> list[Start]:
        """Where each of the slot's tasks began."""
        return slot.starts or [Start(n, slot.draw, 0) for n in range(self.count)]

    def members(self, slot: SlotState) -> list[Task]:
        """The slot's tasks."""
        return [self.drawn(start.draw).tasks[start.place] for start in self.starts(slot)]

    def check_kinds(self, draws: Iterable[int]) -> None:
        """Refuse draws whose tasks cannot run side by side. A family that draws in its own way may give several kinds.

        Raises:
            RecoptError: if they are not all of one kind.
        """
        if type(self.family).draw is Task.draw:
            return
        if len({_kind(self.family.draw(self._seeds(draw))[0]) for draw in draws}) > 1:
            raise RecoptError(
                "With 'stagger' tasks of several draws run side by side, and the draws of this family differ in kind: "
                "drop it, or take one kind of task."
            )

    def module(self, draw: int, n: int = 0) -> torch.nn.Module:
        """A fresh model of task ``n`` of a draw; torch's global generator is left as it was."""
        return self._made(self.tasks(draw)[n])

    def _made(self, task: Task) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            module = task.model()
        odd = next((name for name, p in module.named_parameters() if p.is_complex()), None)
        if odd:
            raise RecoptError(f"The model's parameter '{odd}' is complex: hold its real and imaginary part as two.")
        return module.to(self.device, self.dtype)

    def fresh(self, draw: int, starts: Sequence[Start] = ()) -> SlotState:
        """The task slot at the start of a draw; or of some of its tasks, each of the draw that ``starts`` says."""
        values = []
        for start in starts or [Start(n, draw, 0) for n in range(self.count)]:
            module = self.module(start.draw, start.place)
            kept = [p.detach() for p in module.parameters() if not p.requires_grad]
            moved = [p.detach() for p in module.parameters() if p.requires_grad]
            values.append((moved, kept + [b.detach().clone() for b in module.buffers()]))
        params, buffers = tree.stack(values) if self.batched else values[0]
        return SlotState(params, buffers, draw=draw, starts=list(starts))

    def batch(self, slot: SlotState, index: int, split: Split) -> Any:
        """Batch ``index`` of the slot's tasks, counted from the start of each; on the run's device, in its dtype."""
        pairs = zip(self.members(slot), self.starts(slot), strict=True)
        found = [self.place(task.batch(index - start.seen, split)) for task, start in pairs]
        return found if self.batched else found[0]

    def place(self, batch: Any) -> Any:
        """A batch on the run's device, floats in its dtype."""
        return tree.tree_map(self._there, batch)

    def _there(self, leaf: Tensor) -> Tensor:
        dtype = self.dtype if leaf.is_floating_point() else leaf.dtype
        if leaf.dtype == dtype and leaf.device == self.device:
            return leaf
        return leaf.to(self.device, dtype, non_blocking=True)

    def load(self, draw: int, params: Params, buffers: list[Tensor]) -> torch.nn.Module:
        """The patched model with these values (of one task)."""
        drawn = self.drawn(draw)
        moved, still = iter(params), iter(buffers)
        values = [next(moved) if moving else next(still) for moving in drawn.moving]
        return drawn.patched.load(values, list(still))

    def _loss(
        self, draw: int, params: Params, buffers: list[Tensor], task: Task, batch: Any
    ) -> tuple[Tensor, list[Tensor]]:
        drawn = self.drawn(draw)
        loss = task.loss(self.load(draw, params, buffers), batch)
        kept = len(drawn.moving) - len(params)
        return loss, [*buffers[:kept], *drawn.patched.buffers()]

    def losses(self, slot: SlotState, params: Params, batch: Any) -> tuple[Tensor, list[Tensor]]:
        """The loss at ``params``, 0-dimensional or one per task, and the buffers after it."""
        tasks = self.members(slot)
        if not self.batched:
            return self._loss(slot.draw, params, slot.buffers, tasks[0], batch)
        if not tasks[0].vectorize:
            found = [
                self._loss(slot.draw, [p[n] for p in params], [b[n] for b in slot.buffers], task, batch[n])
                for n, task in enumerate(tasks)
            ]
            return tree.stack(found)
        mapped = torch.func.vmap(lambda p, b, x: self._loss(slot.draw, p, b, tasks[0], x), randomness="different")
        loss, buffers = mapped(params, slot.buffers, tree.stack(batch))
        # Nothing of the mapped call may stay in the module.
        self.load(slot.draw, [p[0].detach() for p in params], [b[0].detach() for b in slot.buffers])
        return loss, buffers

    def gradient(self, slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Params, list[Tensor]]:
        """Loss, gradient and buffers at the slot's value; with a graph through it, or none at all."""
        params = slot.params if graph else [p.detach() for p in slot.params]
        params = [p if p.requires_grad else p.detach().requires_grad_() for p in params]
        plain = not (graph and self._attention(slot, params, batch))
        with nullcontext() if plain else twice_differentiable(), torch.enable_grad():
            loss, buffers = self.losses(slot, params, batch)
            grads = torch.autograd.grad(loss.sum(), params, create_graph=graph, materialize_grads=True)
        return (loss if graph else loss.detach()), list(grads), tree.detach(buffers)

    def _attention(self, slot: SlotState, params: Params, batch: Any) -> bool:
        """Whether the model uses attention; found out once for each patched model."""
        key = id(self.drawn(slot.draw).patched)
        if key not in self._attends:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                self._attends[key] = attends(lambda: self.losses(slot, params, batch))
        return self._attends[key]

    def value(self, slot: SlotState, params: Params, batch: Any) -> Tensor:
        """The loss at ``params`` alone, without a graph."""
        with torch.no_grad():
            return self.losses(slot, [p.detach() for p in params], batch)[0]
