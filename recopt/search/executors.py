"""Executors by name."""

from __future__ import annotations

import os

from ..checking.errors import RecoptError, unknown
from .cluster import Ray
from .executor import THREADS, Executor, Inline
from .processes import Processes

EXECUTORS = ("inline", "processes", "ray")


def make_executor(
    name: str | None = None, workers: int | None = None, address: str | None = None, threads: int | None = None
) -> Executor:
    """The executor called ``name``.

    Args:
        name: ``inline``, ``processes`` or ``ray``; None for ``ray`` with an address, ``processes`` with more than one
            worker, else ``inline``.
        workers: as many as there are processors, if not given.
        address: of a Ray cluster: ``HOST:PORT``, ``ray://HOST:PORT``, or ``auto``; None starts Ray on this machine.
        threads: of torch, for each job; ``THREADS`` if not given.

    Raises:
        RecoptError: for an unknown name, for settings that do not go together, if Ray is not installed, or does not
            answer.
    """
    made = name or ("ray" if address else "processes" if (workers or 1) > 1 else "inline")
    if made not in EXECUTORS:
        raise unknown("executor", made, EXECUTORS)
    if workers is not None and workers < 1:
        raise RecoptError(f"An executor needs one worker at least, not {workers}.")
    if address is not None and made != "ray":
        raise RecoptError(f"'address' is that of a Ray cluster: use the executor 'ray', not '{made}'.")
    count = threads or THREADS
    if made == "ray":
        return Ray(workers, count, address)
    if made == "processes":
        return Processes(workers or processors(), count)
    if (workers or 1) > 1:
        raise RecoptError(f"The executor 'inline' is this process alone: name 'processes' to have {workers} workers.")
    return Inline(count)


def processors() -> int:
    """The number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
