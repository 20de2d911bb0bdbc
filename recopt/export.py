"""What a later program needs to use a trained stack: strategies and levels as JSON, values as safetensors."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .engine import Engine
from .errors import RecoptError
from .held_out import models, settled
from .level import Level
from .plugins import load_strategy, shipped_folder, source_of
from .spec import Spec
from .strategy import Strategy

FORMAT = 1
STACK, VALUES, MODEL, PLUGINS = "stack.json", "strategies.safetensors", "model.safetensors", "plugins"
FROM_FILE = "recopt_plugin_"
"""How the names of modules begin that were read from a plugin's file."""


def write_export(engine: Engine, spec: Spec, folder: Path) -> None:
    """Write the trained strategies of ``engine`` into ``folder``, with the trained model and the user's plugins."""
    state, names = settled(engine), engine.graph.names
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        f"{slot}/{name}": _plain(value)
        for slot in engine.graph.slots
        for name, value in zip(names[slot], state.slots[slot].params, strict=True)
    }
    strategies = {slot: named.model_dump() for slot, named in spec.strategies.items()}
    for slot, strategy in engine.graph.slots.items():
        if copied := copy_sources(type(strategy), folder / PLUGINS):
            strategies[slot]["name"] = copied.stem
    described: dict[str, Any] = {
        "recopt": FORMAT,
        "task": spec.task.model_dump(),
        "tasks": spec.tasks,
        "spent": engine.budget.plain(),
        "strategies": strategies,
        "levels": [level.model_dump(mode="json", exclude_none=True) for level in spec.levels],
    }
    _replace(folder / VALUES, lambda path: save_file(values, path))
    _replace(folder / MODEL, lambda path: save_file(_model(engine), path))
    _replace(folder / STACK, lambda path: Path(path).write_text(json.dumps(described, indent=2) + "\n"))


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def _model(engine: Engine) -> dict[str, Tensor]:
    """The trained model's ``state_dict``; with several tasks, a leading dimension over them, or ``N/`` before names."""
    found = [model.state_dict() for model in models(engine, settled(engine))]
    if len(found) == 1:
        return {name: _plain(value) for name, value in found[0].items()}
    return {f"{n}/{name}": _plain(value) for n, one in enumerate(found) for name, value in one.items()}


def copy_sources(plugin: type, folder: Path) -> Path | None:
    """Copy a user's own plugin file, and what it imports from beside it, into ``folder``.

    Returns:
        The copy of the plugin's file; None for one that comes with recopt or an installed package, or has no file.
    """
    if not plugin.__module__.startswith(FROM_FILE):
        return None
    path, text = source_of(plugin)
    if path.parent.resolve() == shipped_folder("strategies").resolve():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.name
    copy.write_text(text)
    for name in _imported(text):
        _copy_module(name, path.parent, folder)
    return copy


def _copy_module(name: str, source: Path, folder: Path) -> None:
    file, package = source / f"{name}.py", source / name
    if file.is_file() and not (folder / file.name).exists():
        text = file.read_text()
        (folder / file.name).write_text(text)
        for other in _imported(text):
            _copy_module(other, source, folder)
    elif (package / "__init__.py").is_file() and not (folder / name).exists():
        shutil.copytree(package, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def _imported(text: str) -> list[str]:
    """The top-level names of the modules that a source imports."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]


def _replace(path: Path, write: Any) -> None:
    part = f"{path}.part"
    write(part)
    os.replace(part, path)


def export_folder(stack: str | Path) -> Path | None:
    """``stack`` as a folder, if it is one: by what is in it, or because only a path is written like that."""
    path = Path(stack)
    written = isinstance(stack, Path) or stack.startswith(("/", "./", "../"))
    return path if path.is_dir() and (written or (path / STACK).is_file()) else None


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
    strategies, places = {}, [folder / PLUGINS] if (folder / PLUGINS).is_dir() else []
    for slot, named in described["strategies"].items():
        made = load_strategy(named["name"], places, f"in {folder / STACK}")(
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
