"""The engine of a spec, on a device that is here."""

from __future__ import annotations

import torch

from ..contracts.errors import RecoptError
from ..contracts.task import Task
from ..core.graph import Graph
from ..engine.engine import Engine, Sink
from .spec import Spec

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def place(device: str) -> torch.device:
    """The device called ``device``. Raises RecoptError if torch does not have it here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as why:
        # Torch lists every kind of device there is after an unknown one; only the reason is of use here.
        first = str(why).splitlines()[0]
        first = "torch knows none of that name" if first.startswith("Expected one of") else first
        raise RecoptError(f"The device '{device}' is not available ({first}): use --device cpu.") from None
    if found.type == "meta":
        raise RecoptError("The device 'meta' holds no numbers: use --device cpu.")
    return found


def make_engine(spec: Spec, graph: Graph, task: Task, sink: Sink | None = None) -> Engine:
    """The engine of a spec."""
    return Engine(
        task, graph, seed=spec.seed, tasks=spec.tasks, device=place(spec.device), dtype=_DTYPES[spec.dtype], sink=sink
    )
