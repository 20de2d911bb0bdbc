"""The processes of a planned run under ``torchrun``: what cannot be divided among them is refused before it runs."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..checking.errors import RecoptError, shown
from ..levels.graph import Graph
from ..levels.level import BILEVEL, TASK
from ..public import __version__
from ..ranks.link import Link
from ..ranks.shared import ONE, Ranks
from .plan import Plan
from .spec import Spec


def ranks_of(link: Link | None, plan: Plan) -> Ranks:
    """The processes among which the tasks of a run are divided.

    Raises:
        RecoptError: if they cannot be, or if the processes are to run different things.
    """
    if link is None or link.world == 1:
        return ONE if link is None else Ranks(link, plan.spec.tasks)
    _check_alike(link, plan.spec)
    _check_tasks(link.world, plan.spec.tasks)
    _check_levels(plan.graph)
    _use_device(link, plan.spec.device)
    return Ranks(link, plan.spec.tasks)


def _check_alike(link: Link, spec: Spec) -> None:
    """Refuse processes that differ in their versions or in what they were told."""
    mine: dict[str, Any] = {**spec.model_dump(mode="json"), "recopt": __version__, "torch": torch.__version__}
    first = link.from_first(mine)
    for key, value in mine.items():
        if key == "plugins" or value == first[key]:  # which may lie elsewhere; their digests are compared
            continue
        if key in ("recopt", "torch"):
            differs = f"This process has {key} {value}, and process 0 {first[key]}: install one version everywhere."
        elif key == "digests":
            differs = "This process has other sources of plugins than process 0: copy them there."
        else:
            other = f"{key!r} ({shown(value)}) than process 0 ({shown(first[key])})"
            differs = f"This process was started with another {other}: give all of them one command line."
        raise RecoptError(differs)


def _check_tasks(world: int, tasks: int) -> None:
    if tasks == 1:
        raise RecoptError(
            f"Under torchrun the tasks of a run are divided among its {world} processes, and this run has one: give "
            f"--tasks {max(8, world)}, or split each batch of one task over processes with recopt.Optimizer in a "
            "training loop under DDP or FSDP2."
        )
    if tasks < world:
        raise RecoptError(f"{tasks} tasks cannot be divided among {world} processes: give --tasks {world} or more, "
                          f"or --nproc-per-node {tasks}.")  # fmt: skip


def _check_levels(graph: Graph) -> None:
    """Refuse levels whose steps depend on how tasks are divided."""
    for number, level in enumerate(graph.levels):
        if level.moves in BILEVEL:
            raise RecoptError(
                f"Level {number + 1} moves the task's {level.moves}, which processes cannot do together yet: run it "
                "in one process."
            )
        if level.moves == TASK and not graph.order(number):
            raise RecoptError(
                f"Level {number + 1}: '{level.by}' draws random numbers for one task after the other, which processes "
                "cannot do each for itself: run it in one process, or use a first-order strategy there."
            )
        far = [m + 1 for m in graph.within(number) if m != number and graph.levels[m].moves != TASK]
        if level.second_order and far:
            raise RecoptError(
                f"Level {number + 1} differentiates through the steps of level {far[0]}, whose signal comes from all "
                f"processes: run it in one process, or set level{number + 1}.second_order=false."
            )


def _use_device(link: Link, device: str) -> None:
    """Let this process use a device of its own, and sums go over it."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return
    if kind != "cuda" or number:
        what = f"'{device}' is one device for all processes" if number else f"processes cannot add up on '{kind}'"
        raise RecoptError(f"{what[0].upper()}{what[1:]}: give --device cuda, where each has a GPU of its own, or cpu.")
    local, there = int(os.environ.get("LOCAL_RANK", link.rank)), torch.cuda.device_count()
    if local >= there:
        raise RecoptError(
            f"The process has no GPU of its own, as {link.world} were started and this machine has {there}: give "
            f"--nproc-per-node {max(there, 1)}, or --device cpu."
        )
    if not torch.distributed.is_nccl_available():
        raise RecoptError(
            "This build of torch has no NCCL, by which GPUs add up: install another, or use --device cpu."
        )
    torch.cuda.set_device(local)
    link.group = torch.distributed.new_group(backend="nccl")
