"""The engine of a spec, on an available device."""

from __future__ import annotations

import torch

from ..checking.errors import RecoptError
from ..contracts.task import Task
from ..engine.engine import Engine, Sink
from ..levels.graph import Graph
from ..ranks.shared import ONE, Ranks
from .spec import Spec


def available() -> str:
    """The name of the accelerator of this machine, or ``cpu``."""
    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


def place(device: str) -> torch.device:
    """The torch device called ``device``. Raises RecoptError if it is not available."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as why:
        # For an unknown name torch lists every kind of device; only the reason is useful here.
        first = str(why).splitlines()[0]
        first = "torch knows no such device" if first.startswith("Expected one of") else first
        raise RecoptError(f"The device '{device}' is not available ({first}): use --device cpu.") from None
    if found.type == "meta":
        raise RecoptError("The device 'meta' holds no numbers: use --device cpu.")
    return found


def make_engine(spec: Spec, graph: Graph, task: Task, sink: Sink | None = None, ranks: Ranks = ONE) -> Engine:
    """Make the engine of a spec."""
    return Engine(task, graph, seed=spec.seed, tasks=spec.tasks, device=place(spec.device),
                  dtype=getattr(torch, spec.dtype), sink=sink, ranks=ranks)  # fmt: skip
