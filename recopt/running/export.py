"""Export of a trained stack: strategies and levels as JSON, values as safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..engine.engine import Engine
from ..engine.measure import models, settled, start_of
from ..levels.level import INIT
from ..levels.paces import EVERY
from ..stacks.exported import CARD, FORMAT, PLUGINS, VALUES, Trained, digest_of
from ..stacks.origin import held_by
from ..stacks.places import STACK, shipped_folder
from ..stacks.plugin_file import sources_of
from ..tracking.trace import Trace
from .card import card_of
from .selection.scores import Selection
from .spec import Spec

MODEL, START = "model.safetensors", "start.safetensors"
"""The trained model, and the start that episodes have learned."""


def write_export(
    engine: Engine, spec: Spec, folder: Path, trace: Trace | None = None, chosen: Selection | None = None, *,
    model: bool = True,
) -> None:  # fmt: skip
    """Write the trained strategies of ``engine`` into ``folder``, with a card and the user's plugins.

    Args:
        trace: the run's trace, for the meta-losses on the card.
        chosen: the values to export; None for the current ones.
        model: whether to write the trained model too. A learned start is written in any case.
    """
    state, names = settled(engine), engine.graph.names
    folder.mkdir(parents=True, exist_ok=True)
    values = save({
        f"{slot}/{name}": _plain(value)
        for slot in spec.strategies
        for name, value in zip(names[slot], chosen.values[slot] if chosen else state.slots[slot].params, strict=True)
        if name != EVERY or slot not in engine.graph.paces.slots  # which is in the levels
    })  # fmt: skip
    described = {
        "recopt": FORMAT, "task": spec.task.model_dump(), "tasks": spec.tasks, "spent": engine.budget.plain(),
        "strategies": _strategies(engine, spec, folder),
        "levels": [
            {**level.model_dump(mode="json", exclude_none=True), "every": engine.graph.paces.every(state, n)}
            for n, level in enumerate(spec.levels)
        ],
        **({"chosen": chosen.facts()} if chosen else {}),
    }  # fmt: skip
    described = json.loads(json.dumps(described))  # as it is read again: lists for tuples
    plugins = [file.relative_to(folder).as_posix() for file in sorted((folder / PLUGINS).rglob("*")) if file.is_file()]
    described["digests"] = {VALUES: hashlib.sha256(values).hexdigest(), STACK: digest_of(described)}
    described["digests"] |= {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in plugins}
    _replace(folder / VALUES, values)
    if model:
        _replace(folder / MODEL, save(_model(engine)))
    if INIT in state.slots:
        start = start_of(engine).state_dict()
        _replace(folder / START, save({name: _plain(value) for name, value in start.items()}))
    _replace(folder / CARD, card_of(engine, spec, trace, chosen).encode())
    _replace(folder / STACK, (json.dumps(described, indent=2) + "\n").encode())


def _strategies(engine: Engine, spec: Spec, folder: Path) -> dict[str, Any]:
    """The strategies of an export by slot; the user's own are copied into ``folder``."""
    found = {slot: named.model_dump() for slot, named in spec.strategies.items()}
    for slot in spec.strategies:
        strategy = engine.graph.slots[slot]
        base = type(strategy)
        if isinstance(strategy, Trained):  # trained further: the new export must not need the old one
            found[slot], base = strategy.named().model_dump(), strategy.export.base(strategy.slot)
        if copied := copy_sources(base, folder / PLUGINS):
            found[slot]["name"] = copied.stem
        copy_rules([rule for _, rule in held_by([strategy])], folder / PLUGINS)
    return found


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def _model(engine: Engine) -> dict[str, Tensor]:
    """The trained model's ``state_dict``; several tasks add a leading dimension, or ``N/`` before each name."""
    found = [model.state_dict() for model in models(engine, settled(engine))]
    if len(found) == 1:
        return {name: _plain(value) for name, value in found[0].items()}
    return {f"{n}/{name}": _plain(value) for n, one in enumerate(found) for name, value in one.items()}


def copy_sources(plugin: type, folder: Path) -> Path | None:
    """Copy a user's plugin, and the modules that it imports from its own folder, into ``folder``, as they were run.

    Returns:
        The copy of the plugin's file; None for a plugin of recopt or an installed package, or one without a file.
    """
    sources = sources_of(plugin)
    own = next(iter(sources), None)
    if own is None or own.parent == shipped_folder("strategies").resolve():
        return None
    for file, content in sources.items():
        copy = folder / file.relative_to(own.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    return folder / own.name


def copy_rules(rules: Iterable[type], folder: Path) -> None:
    """Copy the sources of strategies that are the user's own, or their exports, into ``folder``."""
    for rule in rules:
        if issubclass(rule, Trained):
            copy_trained(rule, folder)
        else:
            copy_sources(rule, folder)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def copy_trained(strategy: type[Trained], folder: Path) -> Path | None:
    """Copy a trained strategy's export into ``folder``, under its name; None if it ships with recopt."""
    source = strategy.export.folder
    if source.parent.resolve() == shipped_folder("strategies").resolve():
        return None
    copy = folder / strategy.name
    if source.resolve() == copy.resolve():  # a resumed run uses its own copy
        return copy
    left = shutil.ignore_patterns(MODEL, "__pycache__")
    shutil.copytree(source, copy, ignore=left, dirs_exist_ok=True)
    return copy
