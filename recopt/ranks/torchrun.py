"""Processes as ``torchrun`` starts them: who they are, how they meet, and how they end."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch

from ..checking.errors import RecoptError
from .link import Link, RankFailed

c10d: Any = torch.distributed
LEAVE, LOST = 60.0, 5.0
"""The most seconds for which a process waits for the first one to record a failure; where a process is gone."""


@contextmanager
def together(patience: float) -> Iterator[Link]:
    """The connection to the other processes that ``torchrun`` started with this one.

    Args:
        patience: the most seconds to wait for another.

    An error within the block is told to the others. The first process raises it, whichever it was in, and the others
    end without a word.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    link = _met(rank, world, patience)
    try:
        yield link
        if world > 1:
            c10d.destroy_process_group()
    except RankFailed as why:
        link.status = why.status
        if rank and not _leave(link, why.lost):
            raise SystemExit(why.status) from None
        raise
    except BaseException as why:
        status = link.status = _status(why)
        _tell(link, why, status)
        if rank and not _leave(link, lost=False) and isinstance(why, RecoptError | KeyboardInterrupt):
            raise SystemExit(status) from None
        raise


def _tell(link: Link, why: BaseException, status: int) -> None:
    """Let the other processes know that this one has failed; the first that does so is heard."""
    text = str(why) if isinstance(why, RecoptError) else f"{type(why).__name__}: {why}"
    with suppress(RuntimeError):  # the store is gone, and with it those who would read it
        link.tell(f"Process {link.rank} of {link.world}: {text}", status)


def _leave(link: Link, lost: bool) -> bool:
    """Wait until the first process has recorded a failure, as whoever ends before has it stopped.

    True if it did not, as it is itself ``lost``, and no other has said what failed.
    """
    until = time.monotonic() + (LOST if lost else LEAVE)
    try:
        while time.monotonic() < until:
            if link.store.check(["recorded"]):
                return False
            time.sleep(0.05)
        return bool(link.store.compare_set("said", "", str(link.rank)).decode() == str(link.rank))
    except (RuntimeError, KeyboardInterrupt):
        return False


def _met(rank: int, world: int, patience: float) -> Link:
    """Meet the other processes."""
    if not c10d.is_available():
        raise RecoptError("This build of torch has no torch.distributed, which torchrun needs: install another build.")
    again, limit = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), timedelta(seconds=patience)
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    always = c10d.TCPStore(host, port, None, serves, limit, wait_for_workers=False)
    store = c10d.PrefixStore(f"recopt {again}", always)
    if world > 1:
        meeting = c10d.PrefixStore("gloo", store)
        late = limit + timedelta(seconds=LEAVE)  # so that it is our own patience that ends
        c10d.init_process_group("gloo", store=meeting, rank=rank, world_size=world, timeout=late)
    link = Link(rank, world, store, c10d.PrefixStore("recopt", always), patience)
    atexit.register(_end, link)
    return link


def _end(link: Link) -> None:
    """End this process, after all that was to be said is; one that failed, whatever torch still waits for."""
    if link.rank == 0:
        with suppress(RuntimeError):
            link.store.set("recorded", "1")
    if link.status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(link.status)


def _status(why: BaseException) -> int:
    """The exit status that goes with an error."""
    if isinstance(why, KeyboardInterrupt):
        return 130
    return 2 if isinstance(why, RecoptError) and type(why).__name__ != "RunFailed" else 1
