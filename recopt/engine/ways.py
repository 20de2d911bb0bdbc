"""The ways in which tasks are evaluated: by their own models in place, or by one model as a function of its values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.strategy import Params
from ..contracts.task import Task
from ..levels.state import SlotState
from .family import Drawn
from .live import Live
from .loss_slot import Weighed
from .model import Answer, Patched, Swapped, twice_differentiable

Grads = list[Tensor | None]
"""By parameter; None where the loss does not reach it."""


class Way(Protocol):
    """A way of evaluating ``tasks``: the loss is 0-dimensional, or one per task. Buffers of ``slot`` are moved on."""

    def loss(self, tasks: Sequence[Task], slot: SlotState, batch: Any) -> Tensor:
        """The loss at the slot's value."""
        ...

    def loss_at(self, tasks: Sequence[Task], slot: SlotState, params: Params, batch: Any) -> Tensor:
        """The loss at other parameters; the slot stays as it is."""
        ...

    def gradient(self, tasks: Sequence[Task], slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Grads]:
        """Loss and gradient at the slot's value; with a graph through them, or none at all."""
        ...


class InPlace:
    """One task by its own model, which shares its memory with the slot; no graph runs through it."""

    def __init__(self, module: nn.Module) -> None:
        self.live = Live(module)

    def loss(self, tasks: Sequence[Task], slot: SlotState, batch: Any) -> Tensor:
        loss = tasks[0].loss(self.live.bind(slot), batch)
        slot.buffers[:] = self.live.still()
        return loss

    def loss_at(self, tasks: Sequence[Task], slot: SlotState, params: Params, batch: Any) -> Tensor:
        with self.live.elsewhere(slot, params) as module:
            return tasks[0].loss(module, batch)

    def gradient(self, tasks: Sequence[Task], slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Grads]:
        with torch.enable_grad():
            loss = self.loss(tasks, slot, batch)
        return loss.detach(), self.live.gradient(loss)


class OneByOne:
    """Tasks side by side, each by a model of its own, one after the other; no graph runs through them."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.lives = [Live(module) for module in modules]

    def _each(
        self, tasks: Sequence[Task], slot: SlotState, params: Params, batch: Any
    ) -> Iterator[tuple[Live, Tensor, list[Tensor]]]:
        """For each task its model, its loss, and its buffers after it."""
        for n, (live, task) in enumerate(zip(self.lives, tasks, strict=False)):
            module = live.put([p[n] for p in params], [b[n] for b in slot.buffers])
            before = [p._version for p in live.params]
            loss = task.loss(module, batch[n])
            for p, mine, version in zip(params, live.params, before, strict=True):
                if params is slot.params and mine._version != version:  # the model changes its parameters in place
                    p.data[n] = mine.detach()
            yield live, loss, live.still()

    def loss(self, tasks: Sequence[Task], slot: SlotState, batch: Any) -> Tensor:
        loss, slot.buffers = trees.stack(
            [(loss.detach(), still) for _, loss, still in self._each(tasks, slot, slot.params, batch)]
        )
        return loss

    def loss_at(self, tasks: Sequence[Task], slot: SlotState, params: Params, batch: Any) -> Tensor:
        return torch.stack([loss.detach() for _, loss, _ in self._each(tasks, slot, params, batch)])

    def gradient(self, tasks: Sequence[Task], slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Grads]:
        found: list[tuple[Tensor, list[Tensor]]] = []
        grads: list[Grads] = []
        with torch.enable_grad():
            for live, loss, still in self._each(tasks, slot, slot.params, batch):
                grads.append(live.gradient(loss))
                found.append((loss.detach(), [t.detach().clone() for t in still]))
        loss, slot.buffers = trees.stack(found)
        return loss, [_together(column, p) for column, p in zip(zip(*grads, strict=True), slot.params, strict=True)]


def _together(column: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """One tensor's gradients over tasks; where the loss of some tasks reaches it, that of the others is flat in it."""
    if all(g is None for g in column):
        return None
    return torch.stack([torch.zeros_like(like[0]) if g is None else g for g in column])


class Function:
    """Models as functions of their values: looped or mapped over tasks, and with a graph where one is wanted.

    Args:
        models: one for each task, or one that is mapped.
        many: whether tensors have a leading dimension, of tasks.
        mapped: whether the tasks are mapped (``torch.func.vmap``).
        fused: whether the model uses kernels that have no second derivative, or a wrong one.
        blank: modules that the models were made from: what is moved is taken out of them, so that a loss that reads it
            there, by a reference of its own, is seen.
    """

    def __init__(
        self, models: Sequence[Patched | Swapped], drawn: Drawn, *, many: bool, mapped: bool, fused: bool,
        blank: Sequence[nn.Module] = (),
    ) -> None:  # fmt: skip
        self.models, self.drawn, self.many, self.mapped, self.fused = models, drawn, many, mapped, fused
        self._read: Params = []
        self._blank = {p: name for module in blank for name, p in module.named_parameters() if p.requires_grad}
        for p in self._blank:
            p.data = torch.full_like(p, torch.nan)

    def loss(self, tasks: Sequence[Task], slot: SlotState, batch: Any) -> Tensor:
        loss, slot.buffers = self.found(tasks, slot.params, slot.buffers, batch)
        return loss

    def loss_at(self, tasks: Sequence[Task], slot: SlotState, params: Params, batch: Any) -> Tensor:
        return self.found(tasks, [p.detach() for p in params], slot.buffers, batch)[0]

    def gradient(self, tasks: Sequence[Task], slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Grads]:
        params = slot.params if graph else [p.detach() for p in slot.params]
        params = [p if p.requires_grad else p.detach().requires_grad_() for p in params]
        if graph:
            slot.params = params
        if graph and (self.many or isinstance(batch, Weighed) or len({p.is_leaf for p in params}) > 1):
            # Of the loss at these values alone: what weighs it may follow from the same point, a task may be cut, and
            # a tensor that nothing moves is behind those that are moved.
            params = [p.view_as(p) for p in params]
        self._read = params if graph else []
        with twice_differentiable() if graph and self.fused else nullcontext(), torch.enable_grad():
            loss, buffers = self.found(tasks, params, slot.buffers, batch)
            total = loss.sum() if loss.ndim else loss
            if self._blank and math.isnan(total.item()):
                self._refuse_references(loss)
            if not loss.requires_grad:
                return loss, [None] * len(params)
            grads = torch.autograd.grad(total, params, create_graph=graph, allow_unused=True)
        slot.buffers = trees.detach(buffers)
        dense: Grads = [g if g is None or g.layout is torch.strided else g.to_dense() for g in grads]
        return (loss if graph else loss.detach()), dense

    def cut(self, bad: Tensor) -> None:
        """Let nothing be differentiated through the last gradient of ``bad`` tasks: 0 times what is not finite."""
        for p in self._read:
            p.register_hook(lambda c: torch.where(bad.view(-1, *[1] * (c.ndim - 1)), 0.0, c))

    def _refuse_references(self, loss: Tensor) -> None:
        """Raise RecoptError if ``loss`` comes from what was taken out of the module."""
        ahead, seen = [loss.grad_fn], set[Any]()
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if (read := getattr(node, "variable", None)) is not None and read in self._blank:
                raise RecoptError(
                    f"By a reference of its own the model reads '{self._blank[read]}', which it did not on the first "
                    "two batches; tasks side by side and exact levels cannot follow that: set vectorize = False in the "
                    "task, and leave second_order out; or let the model read it anew in every call."
                )
            ahead += [n for n, _ in node.next_functions]

    def found(self, tasks: Sequence[Task], params: Params, buffers: list[Tensor], batch: Any) -> Answer:
        """The loss at these values, and the buffers after it."""
        if not self.many:
            return self._one(0, tasks[0], params, buffers, batch)
        copies = all(b is batch[0] for b in batch)
        if not (self.mapped and (copies or alike(batch))):
            rows = enumerate(tasks)
            return trees.stack(
                [self._one(n, task, [p[n] for p in params], [b[n] for b in buffers], batch[n]) for n, task in rows]
            )

        def one(params: Params, buffers: list[Tensor], *leaves: Tensor) -> Answer:
            return self._one(0, tasks[0], params, buffers, trees.refill(batch[0], leaves))

        leaves = trees.tensors(batch[0] if copies else trees.stack(batch))
        shared = (0, 0, *[None if copies else 0] * len(leaves))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # where torch loops over one operation
            loss, after = torch.func.vmap(one, shared, randomness="different")(params, buffers, *leaves)
        model = self.models[0]
        if isinstance(model, Patched):  # nothing of the mapped call may stay in the module
            model.load(*self.drawn.joined([p[0].detach() for p in params], [b[0].detach() for b in buffers]))
        return loss, after

    def _one(
        self, n: int, task: Task, params: Params, buffers: list[Tensor], batch: Any
    ) -> tuple[Tensor, list[Tensor]]:
        values, rest = self.drawn.joined(params, buffers)
        loss, after = self.models[min(n, len(self.models) - 1)].loss(task, values, rest, batch)
        return loss, [*buffers[: len(buffers) - len(rest)], *after]


def alike(batches: Sequence[Any]) -> bool:
    """True if batches differ in the values of their tensors only, so that they can be stacked."""
    if len({type(b) for b in batches}) == 1 and isinstance(batches[0], Tensor):
        return len({b.shape for b in batches}) == 1
    layouts = [trees.tree_map(lambda t: (t.shape, t.dtype), b) for b in batches]
    try:
        return all(bool(layout == layouts[0]) for layout in layouts)
    except Exception:  # something that cannot be compared
        return False
