"""What a later program needs to use a trained stack: strategies and levels as JSON, values as safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checkpoint import read
from .engine import Engine
from .errors import RecoptError
from .level import TASK, Level
from .plugins import load_strategy
from .spec import Spec
from .state import RunState
from .strategy import Strategy

FORMAT = 1
STACK, VALUES, MODEL = "stack.json", "strategies.safetensors", "model.safetensors"


def write_export(engine: Engine, spec: Spec, folder: Path) -> None:
    """Write the trained strategies of ``engine`` into ``folder``, with the trained model beside them."""
    names = {name: engine.graph.names[name] for name in engine.state.slots}
    _write(engine.state, names, spec, folder)


def export_checkpoint(checkpoint: Path, spec: Spec, names: dict[str, list[str]], folder: Path) -> None:
    """The same from a checkpoint's last clean moment."""
    state, _ = read(checkpoint)
    _write(state, names, spec, folder)


def _write(state: RunState, names: dict[str, list[str]], spec: Spec, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Tensor] = {}
    for slot, kept in state.slots.items():
        for name, value in zip(names[slot], kept.params, strict=True):
            if slot != TASK:
                values[f"{slot}/{name}"] = value.detach().cpu().contiguous().clone()
    model = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in zip(names[TASK], state.slots[TASK].params, strict=True)
    }
    described: dict[str, Any] = {
        "recopt": FORMAT,
        "task": spec.task.model_dump(),
        "strategies": {slot: named.model_dump() for slot, named in spec.strategies.items()},
        "levels": [level.model_dump(mode="json", exclude_none=True) for level in spec.levels],
    }
    _replace(folder / VALUES, lambda path: save_file(values, path))
    _replace(folder / MODEL, lambda path: save_file(model, path))
    _replace(folder / STACK, lambda path: Path(path).write_text(json.dumps(described, indent=2) + "\n"))


def _replace(path: Path, write: Any) -> None:
    part = f"{path}.part"
    write(part)
    os.replace(part, path)


def read_export(folder: Path) -> tuple[list[Level], dict[str, Strategy]]:
    """The levels and trained strategies in ``folder``.

    Raises:
        RecoptError: if the folder is not an export, or its values do not fit its strategies.
    """
    try:
        described = json.loads((folder / STACK).read_text())
        values = load_file(str(folder / VALUES))
    except (OSError, json.JSONDecodeError, SafetensorError) as why:
        raise RecoptError(f"{folder} is no export of recopt ({why}): write one with 'recopt export RUN DIR'.") from None
    if described.get("recopt") != FORMAT:
        raise RecoptError(f"{folder} has format {described.get('recopt')}, and this recopt reads {FORMAT}.")
    strategies = {}
    for slot, named in described["strategies"].items():
        made = load_strategy(named["name"], [folder / "plugins"] if (folder / "plugins").is_dir() else [])(
            domains=named["domains"] or None, **named["settings"]
        )
        _fill(made, slot, values, folder)
        strategies[slot] = made
    return [Level(**level) for level in described["levels"]], strategies


def _fill(strategy: Strategy, slot: str, values: dict[str, Tensor], folder: Path) -> None:
    with torch.no_grad():
        for name, parameter in strategy.named_parameters():
            found = values.get(f"{slot}/{name}")
            if found is None or found.shape != parameter.shape:
                raise RecoptError(f"{folder / VALUES} does not fit '{slot}': {name} is missing or of another shape.")
            parameter.copy_(found)
