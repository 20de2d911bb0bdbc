"""The connection of a process to the others of its run: sums over all, bytes to and from the first, word of failures.

No wait is without end. A process that fails tells the others why, by the store that they share, and each of them looks
there while it waits.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError

LOOK = timedelta(seconds=1)
"""The time between two looks at what others tell, while a process waits."""


class RankFailed(RecoptError):
    """A failure in another process of the run, of which this one has heard.

    Attributes:
        status: the exit status that goes with it.
        lost: whether that process is gone or hangs, so that the run can be resumed.
    """

    def __init__(self, text: str, status: int = 1, lost: bool = False) -> None:
        super().__init__(text)
        self.status, self.lost = status, lost


class Elsewhere(Exception):
    """The traceback of another process, as the cause of a :class:`RankFailed`."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class Link:
    """The connection of process ``rank`` to the others.

    Args:
        store: what all of them read and write; ``always``: and those after them, where they are started again.
        patience: the most seconds to wait for another.

    Attributes:
        group: of the sums on a device; None: of the CPU.
        status: the exit status, if this process failed.
    """

    def __init__(self, rank: int, world: int, store: Any, always: Any, patience: float) -> None:
        self.rank, self.world, self.store, self.always, self.patience = rank, world, store, always, patience
        self.group: Any = None
        self.status: int | None = None
        self._count = 0

    def sum(self, values: Tensor, most: bool = False) -> Tensor:
        """``values``, one-dimensional, added up over all processes, in place; or the largest of each."""
        op = torch.distributed.ReduceOp.MAX if most else torch.distributed.ReduceOp.SUM
        group = None if values.is_cpu else self.group
        self._do(lambda: torch.distributed.all_reduce(values, op, group, async_op=True), values.is_cpu)
        return values

    def gather(self, mine: bytes) -> list[bytes]:
        """The bytes that each process gives, by rank, in the first one; nothing in the others."""
        sizes = torch.zeros(self.world, dtype=torch.int64)
        sizes[self.rank] = len(mine)
        sizes = self.sum(sizes)
        whole = _padded(mine, int(sizes.max()))
        parts = [torch.empty_like(whole) for _ in range(self.world)] if self.rank == 0 else None
        self._do(lambda: torch.distributed.gather(whole, parts, 0, async_op=True))
        return [bytes(part[:size].numpy()) for part, size in zip(parts or [], sizes.tolist(), strict=False)]

    def scatter(self, parts: Sequence[bytes]) -> bytes:
        """This process's part of what the first one gives for each; the others give nothing."""
        sizes = torch.zeros(self.world, dtype=torch.int64)
        if self.rank == 0:
            sizes += torch.tensor([len(part) for part in parts])
        sizes = self.sum(sizes)
        found = torch.empty(int(sizes.max()), dtype=torch.uint8)
        given = [_padded(part, len(found)) for part in parts] if self.rank == 0 else None
        self._do(lambda: torch.distributed.scatter(found, given, 0, async_op=True))
        return bytes(found[: int(sizes[self.rank])].numpy())

    def from_first(self, value: Any) -> Any:
        """The value that the first process gives, as JSON carries it."""
        if self.world == 1:
            return value
        return json.loads(self.scatter([json.dumps(value).encode()] * self.world if self.rank == 0 else []))

    def note_run(self, run: str | None) -> None:
        """Note the id of the recorded run, so that these processes find it where ``torchrun`` starts them again."""
        if run is not None:
            self.always.set("run", run)

    def earlier_run(self) -> str | None:
        """The id of the run that these processes were at before ``torchrun`` started them again; None for none."""
        return self.always.get("run").decode() if self.always.check(["run"]) else None

    def _do(self, begin: Any, on_cpu: bool = True) -> None:
        """Begin something that all processes do together, and wait for its end.

        Raises:
            RankFailed: if another one failed, is gone, or did not come.
        """
        self._count += 1
        try:
            work, start, late = begin(), time.monotonic(), False
            while not _ended(work, on_cpu):
                self.hear()
                if not late:
                    self.store.set(f"waits {self.rank}", str(self._count))
                late = True
                if time.monotonic() - start > self.patience:
                    missing = self._missing()
                    self.tell(missing, 1, lost=True)  # or they would take this one for the one that is gone
                    raise RankFailed(missing, lost=True)
        except RuntimeError:  # its connection is closed
            time.sleep(LOOK.total_seconds())
            self.hear()
            raise RankFailed(
                f"A process of this run is gone, as process {self.rank} of {self.world} found: it was killed, or its "
                "machine failed.", lost=True,
            ) from None  # fmt: skip

    def tell(self, text: str, status: int, lost: bool = False) -> None:
        """Let the other processes know that this one fails; the first that does so is heard."""
        told = {"rank": self.rank, "text": text, "status": status, "lost": lost, "traceback": traceback.format_exc()}
        self.store.compare_set("failed", "", json.dumps(told))

    def hear(self) -> None:
        """Raise RankFailed if another process has failed."""
        if self.store.check(["failed"]) and (told := json.loads(self.store.get("failed")))["rank"] != self.rank:
            raise RankFailed(told["text"], told["status"], told["lost"]) from Elsewhere(told["traceback"])

    def _missing(self) -> str:
        """A sentence on the processes that are not where this one waits."""
        found = []
        for rank in range(self.world):
            key = f"waits {rank}"
            if rank != self.rank and not (self.store.check([key]) and int(self.store.get(key)) == self._count):
                found.append(str(rank))
        who = f"process {' and '.join(found)}" if found else "the others"
        return (
            f"Process {self.rank} of {self.world} has waited {self.patience:g} s for {who}: it hangs, or a step of its "
            "tasks takes longer (--rank-timeout allows more)."
        )


def _ended(work: Any, on_cpu: bool) -> bool:
    """True once ``work`` is done; False if it is time to look around."""
    if on_cpu:
        try:
            return bool(work.wait(LOOK))
        except RuntimeError as why:
            if "timed out" not in str(why).lower():
                raise
            return False
    until = time.monotonic() + LOOK.total_seconds()
    while not work.is_completed():  # whose wait() would give the group up after a while
        if time.monotonic() > until:
            return False
        time.sleep(5e-5)
    return bool(work.wait())


def _padded(data: bytes, size: int) -> Tensor:
    whole = torch.zeros(size, dtype=torch.uint8)
    if data:
        whole[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return whole
