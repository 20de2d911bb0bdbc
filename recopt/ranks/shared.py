"""The tasks of a run divided among processes, and what is common to all of them.

Tasks are numbered through. Each process (rank) has a stretch of them, and unrolls those alone; everything above them
(strategies that they share, levels that move these) is the same in every process, bit by bit, since each signal of
theirs is made the mean over all tasks before anything reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..levels.state import Signal
from .link import Link


class Ranks:
    """The processes of a run; without a ``link``, there is one.

    Args:
        tasks: of the run, in all processes.
    """

    def __init__(self, link: Link | None = None, tasks: int = 1) -> None:
        self.link, self.tasks = link, tasks
        self.rank, self.world = (link.rank, link.world) if link else (0, 1)

    def __bool__(self) -> bool:
        return self.world > 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # processes cannot be copied

    def share(self, count: int, rank: int | None = None) -> range:
        """The numbers of ``count`` things that belong to a process, to this one if none is named."""
        rank, (each, more) = self.rank if rank is None else rank, divmod(count, self.world)
        start = rank * each + min(rank, more)
        return range(start, start + each + (rank < more))

    @property
    def weight(self) -> float:
        """The part of all tasks that this process has."""
        return len(self.share(self.tasks)) / self.tasks

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over the processes."""
        if not self or self.link is None:
            return list(numbers)
        return self.link.sum(torch.tensor(list(numbers), dtype=torch.float64)).tolist()

    def means(self, values: Mapping[Any, float]) -> dict[Any, float]:
        """The mean over all tasks of numbers that are means over those of this process."""
        if not self or self.link is None:
            return dict(values)
        self.same([len(values)])
        own = len(self.share(self.tasks))
        keys = sorted(values, key=str)  # one order for all processes
        found = dict(zip(keys, self.totals([float(values[key]) * own for key in keys]), strict=True))
        return {key: found[key] / self.tasks for key in values}

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean over all tasks of tensors that are means over those of this process, in one sum."""
        if not self or self.link is None:
            return list(tensors)
        flat = torch.cat([t.detach().reshape(-1).to(tensors[0].device, torch.float64) for t in tensors]) * self.weight
        parts = self.link.sum(flat).split([t.numel() for t in tensors])
        return [part.view(t.shape).to(t.device, t.dtype) for part, t in zip(parts, tensors, strict=True)]

    def shared(self, signal: Signal, moved: Sequence[Tensor]) -> Signal:
        """The signal of a level over tasks, ``signal`` for those of this process: the mean over all.

        Its gradients are those by ``moved``, None if nothing in any process depends on that.
        """
        if not self or self.link is None:
            return signal
        grads = [torch.zeros_like(p) for p in moved] if signal.grads is None else signal.grads
        known = torch.zeros_like(signal.loss, dtype=torch.float64) + (signal.grads is not None)
        loss, known, *grads = self.mean([signal.loss, known, *grads])
        return replace(signal, loss=loss, grads=grads if known > 0 else None, pairs=[])

    def squares(self, pair: Tensor) -> Tensor:
        """Two sums of squares, of tensors over tasks and of others that are weighed by one over their number."""
        if not self or self.link is None:
            return pair
        found = self.link.sum(pair.detach().double() * pair.new_tensor([1.0, self.weight**2], dtype=torch.float64))
        return found.to(pair)

    def same(self, numbers: Sequence[int], what: str = "The processes of this run are not at one place") -> None:
        """Raise RecoptError if ``numbers`` are others in another process."""
        if not self or self.link is None:
            return
        both = torch.tensor([*numbers, *(-n for n in numbers)], dtype=torch.int64)
        found = self.link.sum(both.clone(), most=True)
        if not torch.equal(found[: len(numbers)], -found[len(numbers) :]):
            raise RecoptError(
                f"{what}: something in a strategy or task goes by the process, its machine or the time, and all that "
                "tasks share must come out alike everywhere."
            )


ONE = Ranks()
"""One process, with all tasks."""
