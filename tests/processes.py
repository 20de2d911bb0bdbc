"""Work in two processes of one group, over gloo, that ends whatever happens to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

WAIT = 240
"""Seconds, for busy machines; they take ten on an idle one."""


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
