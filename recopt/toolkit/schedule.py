"""Schedules: the ways that hyperparameters went in a run, kept in a file, to be taken again in another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..checking.digests import digest
from ..checking.errors import Damaged, RecoptError

FORMAT = "1"


@dataclass(frozen=True)
class Schedule:
    """The way of one strategy's hyperparameters.

    Attributes:
        starts: the updates by the strategy before each change, ascending from 0, shape (n,) int64.
        values: by name, the coordinates from each change on, shape (n,) float64.
        domains: by name, what a coordinate stands for, in words.
    """

    starts: Tensor
    values: Mapping[str, Tensor]
    domains: Mapping[str, str]


def save_schedules(schedules: Mapping[str, Schedule], path: Path, steps: int) -> None:
    """Write the ``schedules`` of a run of so many ``steps``, by slot."""
    tensors = {f"{slot}/": one.starts.contiguous() for slot, one in schedules.items()}
    tensors |= {f"{slot}/{name}": x.contiguous() for slot, one in schedules.items() for name, x in one.values.items()}
    domains = {slot: dict(one.domains) for slot, one in schedules.items()}
    text = json.dumps({"steps": steps, "domains": domains})
    path.write_bytes(save(tensors, {"format": FORMAT, "recopt": text, "sha256": _digest(text, tensors)}))


def load_schedules(path: Path) -> tuple[dict[str, Schedule], int]:
    """The schedules in a file, by slot, and the steps of the run that they are of.

    Raises:
        RecoptError: if there is no such file; Damaged if it is not as :func:`save_schedules` wrote it.
    """
    if not path.is_file():
        raise RecoptError(f"There is no schedule at {path}: a run that moves hyperparameters writes one at its end.")
    try:
        with safe_open(str(path), framework="pt") as file:
            about: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        form, text, known = about["format"], about["recopt"], about["sha256"]
    except (SafetensorError, OSError, ValueError, KeyError) as why:
        raise Damaged(f"{path} is damaged, or no schedule of recopt ({why}): take that of another run.") from None
    if form != FORMAT:
        raise Damaged(f"{path} has format {form}, and this recopt reads {FORMAT}: use the one that wrote it.")
    if _digest(text, tensors) != known:
        raise Damaged(f"{path} is damaged: what it holds is not what was written. Take that of another run.")
    told: dict[str, Any] = json.loads(text)
    found = {
        slot: Schedule(tensors[f"{slot}/"], {name: tensors[f"{slot}/{name}"] for name in domains}, domains)
        for slot, domains in told["domains"].items()
    }
    return found, told["steps"]


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return digest([("", text.encode()), *((name, x.view(torch.uint8).numpy()) for name, x in tensors.items())])
