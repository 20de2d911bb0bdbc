"""Evaluations of the task slot: batches, losses and gradients, of one task or of many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..contracts.strategy import Params
from ..contracts.task import Split
from ..levels.state import SlotState
from .family import Family
from .model import attends, twice_differentiable
from .randomness import seeded


class Evaluator:
    """Evaluates the tasks of a family, in the run's dtype and on its device."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def batch(self, slot: SlotState, index: int, split: Split) -> Any:
        """Batch ``index`` of the slot's tasks, counted from the start of each; a list of them if there are many."""
        pairs = zip(self.family.members(slot), self.family.starts(slot), strict=True)
        found = [self.place(task.batch(index - start.seen, split)) for task, start in pairs]
        return found if self.family.batched else found[0]

    def place(self, batch: Any) -> Any:
        """A batch on the run's device, floats in its dtype."""
        return trees.tree_map(self._there, batch)

    def _there(self, leaf: Tensor) -> Tensor:
        device, dtype = self.family.device, self.family.dtype if leaf.is_floating_point() else leaf.dtype
        if leaf.dtype == dtype and leaf.device == device:
            return leaf
        return leaf.to(device, dtype, non_blocking=True)

    def losses(self, slot: SlotState, params: Params, batch: Any) -> tuple[Tensor, list[Tensor]]:
        """The loss at ``params``, 0-dimensional or one per task, and the buffers after it."""
        tasks, drawn = self.family.members(slot), self.family.drawn(slot.draw)
        if not self.family.batched:
            return drawn.loss(tasks[0], params, slot.buffers, batch)
        if not tasks[0].vectorize:
            found = [
                drawn.loss(task, [p[n] for p in params], [b[n] for b in slot.buffers], batch[n])
                for n, task in enumerate(tasks)
            ]
            return trees.stack(found)
        _ = drawn.patched  # made now: nothing can be made inside a mapped call
        mapped = torch.func.vmap(lambda p, b, x: drawn.loss(tasks[0], p, b, x), randomness="different")
        loss, buffers = mapped(params, slot.buffers, trees.stack(batch))
        # Nothing of the mapped call may stay in the module.
        drawn.load([p[0].detach() for p in params], [b[0].detach() for b in slot.buffers])
        return loss, buffers

    def live(self, slot: SlotState, batch: Any) -> Tensor:
        """The loss at the slot's value, by the model itself, which shares its memory with the slot."""
        live = self.family.drawn(slot.draw).live
        loss = self.family.members(slot)[0].loss(live.bind(slot), batch)
        live.settle(slot)
        return loss

    def live_at(self, slot: SlotState, params: Params, batch: Any) -> Tensor:
        """The loss at other parameters than the slot's, by the model itself; without a graph."""
        with self.family.drawn(slot.draw).live.elsewhere(slot, params) as module, torch.no_grad():
            return self.family.members(slot)[0].loss(module, batch)

    def live_gradient(self, slot: SlotState, batch: Any) -> tuple[Tensor, list[Tensor | None]]:
        """Loss and gradient by the model itself; None for parameters that the loss does not reach."""
        with torch.enable_grad():
            loss = self.live(slot, batch)
        params = self.family.drawn(slot.draw).live.params
        return loss.detach(), self._reached(loss, params, False)

    def gradient(self, slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Params, list[Tensor]]:
        """Loss, gradient and buffers at the slot's value; with a graph through it, or none at all."""
        params = slot.params if graph else [p.detach() for p in slot.params]
        params = [p if p.requires_grad else p.detach().requires_grad_() for p in params]
        plain = not (graph and self._attention(slot, params, batch))
        with nullcontext() if plain else twice_differentiable(), torch.enable_grad():
            loss, buffers = self.losses(slot, params, batch)
            found = self._reached(loss, params, graph)
            grads = [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)]
        return (loss if graph else loss.detach()), grads, trees.detach(buffers)

    def _reached(self, loss: Tensor, params: Sequence[Tensor], graph: bool) -> list[Tensor | None]:
        """The gradients of what the loss reaches; None for the others.

        Raises:
            RecoptError: if it reaches nothing.
        """
        found: list[Tensor | None]
        found = list(torch.autograd.grad(loss.sum(), params, create_graph=graph, allow_unused=True))
        if all(g is None for g in found):
            raise RecoptError(
                "The loss reaches no parameter of the model, so nothing would be trained. With tasks side by side, or "
                "an exact level (second_order), it must call the model itself, as in model(x): put the work into the "
                "model's forward, or run one task without exact levels."
            )
        return found

    def _attention(self, slot: SlotState, params: Params, batch: Any) -> bool:
        """True if the model uses attention; found out once for each patched model."""
        patched = self.family.drawn(slot.draw).patched
        if patched.attends is None:
            with seeded(None, self.family.device), torch.no_grad():
                patched.attends = attends(lambda: self.losses(slot, params, batch))
        return patched.attends

    def value(self, slot: SlotState, params: Params, batch: Any) -> Tensor:
        """The loss at ``params`` alone, without a graph."""
        with torch.no_grad():
            return self.losses(slot, [p.detach() for p in params], batch)[0]
