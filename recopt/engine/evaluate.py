"""Evaluations of the task slot: batches, losses and gradients, of one task or of many side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checking.errors import Notice, RecoptError
from ..contracts import trees
from ..contracts.strategy import Params
from ..contracts.task import Split
from ..levels.state import SlotState
from .family import Family, kind
from .probe import UNREACHED, Choice, Probe
from .products import Products
from .randomness import undone_if_it_fails
from .ways import Function, Grads, InPlace, Way

T = TypeVar("T")


class Evaluator:
    """Evaluates the tasks of a family, in the run's dtype and on its device.

    Args:
        exact: whether a level differentiates through the gradients of the task.
        gradients: whether a level reads them.

    Raises:
        RecoptError: from the constructor, for a model that cannot be evaluated so.
    """

    def __init__(self, family: Family, exact: bool, gradients: bool) -> None:
        self.family, self.exact, self.gradients = family, exact, gradients
        self._choices: dict[Any, Choice] = {}
        self._mapped: Way | None = None
        self.quietly = Quietly(family.device)
        self.products = Products()
        self._told: set[str] = set()
        self._checked = False
        self.way(0)

    def way(self, draw: int) -> Way:
        """The way in which the tasks of a draw are evaluated, chosen when it is first asked for."""
        drawn = self.family.drawn(draw)
        if drawn.way is None and not (self.exact or self.family.batched):
            drawn.way = InPlace(self.family.module(draw))
        elif drawn.way is None:
            known = self._choices
            like = kind(drawn.tasks[0])
            if like not in known:
                probe = Probe(self.family, draw, self.exact, self.gradients)
                known[like] = probe.choice()
                for note in probe.notes:
                    self._tell(note)
            drawn.way = self._mapped or known[like].way(self.family, draw)
            if self.family.uniform and known[like].mapped:
                self._mapped = drawn.way  # one model that was seen to serve for other tasks than its own
        return drawn.way  # type: ignore[no-any-return]

    def bind(self, slot: SlotState) -> None:
        """Let the slot share its memory with the model, where that is moved in place."""
        way = self.way(slot.draw)
        if isinstance(way, InPlace):
            way.live.bind(slot)

    def batch(self, slot: SlotState, index: int, split: Split) -> Any:
        """Batch ``index`` of the slot's tasks, counted from the start of each; a list of them if there are many."""
        tasks = self.family.members(slot)
        seen = [start.seen for start in slot.starts] or [0] * len(tasks)
        found = [self.family.place(task.batch(index - n, split)) for task, n in zip(tasks, seen, strict=True)]
        return found if self.family.batched else found[0]

    def loss(self, slot: SlotState, batch: Any) -> Tensor:
        """The loss at the slot's value, 0-dimensional or one per task, without a graph; buffers are moved on."""
        kept = slot.buffers

        def back() -> None:
            slot.buffers = kept

        if self.quietly.inside is None:
            kept = [b.clone() for b in slot.buffers]
        tasks = self.family.members(slot)
        return self.quietly(lambda: self.way(slot.draw).loss(tasks, slot, batch), back)

    def value(self, slot: SlotState, params: Params, batch: Any) -> Tensor:
        """The loss at other parameters than the slot's, which stays as it is; without a graph."""
        tasks = self.family.members(slot)
        return self.quietly(lambda: self.way(slot.draw).loss_at(tasks, slot, params, batch))

    def gradient(self, slot: SlotState, batch: Any, graph: bool) -> tuple[Tensor, Grads]:
        """Loss and gradient at the slot's value, with a graph through it or none at all; buffers are moved on.

        The gradient is None for parameters that the loss does not reach, which are told of once.

        Raises:
            RecoptError: if it reaches none.
        """
        loss, grads = self.way(slot.draw).gradient(self.family.members(slot), slot, batch, graph)
        if graph:
            self.products.watch(grads)
        if not self._checked:
            self._check(slot, grads)
        return loss, grads

    def cut(self, slot: SlotState, bad: Tensor) -> None:
        """Let no derivative run through the last gradient of tasks that are ``bad``; the others keep theirs."""
        way = self.way(slot.draw)
        if isinstance(way, Function) and bad.ndim:
            way.cut(bad)

    def _check(self, slot: SlotState, grads: Sequence[Tensor | None]) -> None:
        self._checked = True
        names = self.family.drawn(slot.draw).names
        lost = [f"'{name}'" for name, g in zip(names, grads, strict=True) if g is None]
        if len(lost) == len(names):
            raise RecoptError(UNREACHED)
        if lost:
            more = f" and {len(lost) - 5} others" if len(lost) > 5 else ""
            self._tell(f"The loss does not reach {', '.join(lost[:5])}{more}: not trained as long as it does not.")

    def _tell(self, note: str) -> None:
        if note not in self._told:
            self._told.add(note)
            warnings.warn(note, Notice, stacklevel=2)


class Quietly:
    """Calls without a graph, but for losses that differentiate inside (of physics, of an adversary).

    Attributes:
        inside: whether they do; None as long as that is not known.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.inside: bool | None = None

    def __call__(self, call: Callable[[], T], back: Callable[[], None] = lambda: None) -> T:
        """The answer of ``call``, without a graph; ``back`` takes back what a failed attempt has changed."""
        if self.inside is None:
            try:
                with undone_if_it_fails(self.device), torch.no_grad():
                    out = call()
                self.inside = False
                return out
            except RuntimeError:
                self.inside = True
                back()
        with torch.set_grad_enabled(self.inside):
            return trees.detach(call())
