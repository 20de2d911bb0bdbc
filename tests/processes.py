"""Work in two processes of one group, over gloo, that ends whatever happens to them; folders that are traps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

WAIT = 240
"""Seconds, for busy machines; they take ten on an idle one."""


TRAPS = ("random", "json", "logging", "mlflow", "numpy", "sqlite3", "uvicorn", "click", "torch/__init__")


def trap(folder: Path) -> Path:
    """Lay modules into ``folder`` that a process which imports from there runs; each adds a line to the file."""
    told = folder / "executed.txt"
    for name in TRAPS:
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"with open({str(told)!r}, 'a') as told:\n    print({name!r}, file=told)\n")
    return told


def _enter(rank: int, meeting: str, work: Callable[[int], Any], results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=timedelta(seconds=WAIT))
    results.put((rank, work(rank)))
    torch.distributed.destroy_process_group()


def of_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` gave in each of two processes. They meet in a file of ``folder``: a port might be taken."""
    context = torch.multiprocessing.get_context("spawn")
    results, meeting = context.Queue(), f"file://{folder / 'meeting'}"
    processes = [context.Process(target=_enter, args=(rank, meeting, work, results)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        found = sorted((results.get(timeout=WAIT) for _ in processes), key=lambda part: int(part[0]))
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    return [part for _, part in found]
