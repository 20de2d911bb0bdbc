"""The tasks of a run, sampled from a family by number, and their models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..contracts.strategy import Params
from ..contracts.task import Task
from ..levels.seeds import mix
from ..levels.state import SlotState, Start
from .live import Live
from .model import Patched
from .randomness import seeded


@dataclass
class Drawn:
    """The tasks of one draw, which run side by side, and what their models have in common.

    ``names`` are those of the parameters that may be moved, ``moving`` says which of all parameters they are,
    and the models are made when they are first asked for.
    """

    tasks: list[Task]
    names: list[str]
    moving: list[bool]
    _patched: Patched | None = None
    _make: Callable[[], nn.Module] | None = None
    _live: Live | None = None

    @property
    def patched(self) -> Patched:
        """The model as a function of its parameters."""
        if self._patched is None:
            assert self._make is not None
            self._patched = Patched(self._make())
        return self._patched

    @property
    def live(self) -> Live:
        """The model itself."""
        if self._live is None:
            assert self._make is not None
            self._live = Live(self._make())
        return self._live

    def load(self, params: Params, buffers: list[Tensor]) -> nn.Module:
        """The patched model with these values (of one task)."""
        moved, still = iter(params), iter(buffers)
        values = [next(moved) if moving else next(still) for moving in self.moving]
        return self.patched.load(values, list(still))

    def loss(self, task: Task, params: Params, buffers: list[Tensor], batch: Any) -> tuple[Tensor, list[Tensor]]:
        """The loss of one task at these values, 0-dimensional, and the buffers after it."""
        loss = task.loss(self.load(params, buffers), batch)
        kept = len(self.moving) - len(params)
        return loss, [*buffers[:kept], *self.patched.buffers()]


class Family:
    """Draws the tasks of a run; draw number n is a pure function of the seed and n.

    Args:
        task: the family that is sampled.
        count: how many tasks run side by side; above 1 every tensor of the task's slot has a leading dimension.
        seed: of the run. The first task of a run of one has exactly this seed.
    """

    def __init__(self, task: Task, count: int, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.task, self.count, self.seed, self.device, self.dtype = task.to(device), count, seed, device, dtype
        self.batched = count > 1
        self._found: dict[int, Drawn] = {}

    def drawn(self, draw: int) -> Drawn:
        """Draw number ``draw``, counted from 0."""
        found = self._found.get(draw)
        if found is None:
            # A run may go back by one draw, where trials are taken back; older ones are not needed again.
            self._found = {k: v for k, v in self._found.items() if k >= draw - 2}
            tasks = self.task.draw(self._seeds(draw))
            module = self._made(tasks[0])
            names = [n for n, p in module.named_parameters() if p.requires_grad]
            found = Drawn(tasks, names, [p.requires_grad for p in module.parameters()])
            same = type(self.task).draw is Task.draw and self._found
            if same:
                before = next(iter(self._found.values()))
                found._patched, found._live, found._make = before._patched, before._live, before._make
                found.names = before.names if before.names == names else names
            found._make = found._make or partial(self._made, tasks[0])
            self._found[draw] = found
        return found

    def _seeds(self, draw: int) -> list[int]:
        return [self.seed if draw == n == 0 else mix(self.seed, draw, n) for n in range(self.count)]

    def starts(self, slot: SlotState) -> list[Start]:
        """The start of each of the slot's tasks."""
        return slot.starts or [Start(n, slot.draw, 0) for n in range(self.count)]

    def members(self, slot: SlotState) -> list[Task]:
        """The slot's tasks."""
        return [self.drawn(start.draw).tasks[start.place] for start in self.starts(slot)]

    def check_kinds(self, draws: Iterable[int]) -> None:
        """Refuse draws whose tasks cannot run side by side. A family that draws in its own way may give several kinds.

        Raises:
            RecoptError: if they are not all of one kind.
        """
        if type(self.task).draw is Task.draw:
            return
        if len({_kind(self.task.draw(self._seeds(draw))[0]) for draw in draws}) > 1:
            raise RecoptError(
                "With 'stagger' tasks of several draws run side by side, and the draws of this family differ in kind: "
                "drop it, or take one kind of task."
            )

    def module(self, draw: int, n: int = 0) -> nn.Module:
        """A fresh model of task ``n`` of a draw; torch's global generators are left as they were."""
        return self._made(self.drawn(draw).tasks[n])

    def _made(self, task: Task) -> nn.Module:
        with seeded(task.seed, self.device):
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
        params, buffers = trees.stack(values) if self.batched else values[0]
        return SlotState(params, buffers, draw=draw, starts=list(starts))


def _kind(task: Task) -> tuple[Any, ...]:
    within = [_kind(value) for value in vars(task).values() if isinstance(value, Task)]
    return (type(task), repr(getattr(task, "_options", None)), *within)
