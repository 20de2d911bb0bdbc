"""Specs whose files are gone: what a run kept beside its spec takes their place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..stacks.plugins import is_known


def relocated(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A spec's mapping with missing files replaced by the copies beside the spec, in ``folder``.

    A run keeps copies of its plugins in ``plugins/`` beside its spec. The paths in the spec are tried first, so a
    corrected file is used.
    """
    out = dict(data)
    if "task" in out:
        out["task"] = _beside(out["task"], folder, "task")
    strategies = out.get("strategies")
    if isinstance(strategies, Mapping):
        strategies = out["strategies"] = {
            slot: _with_files(_beside(one, folder, "strategies"), folder / "plugins" / "files" / str(slot))
            for slot, one in strategies.items()
        }
    kept, given = folder / "plugins" / "strategies", out.get("plugins") or []
    if kept.is_dir() and isinstance(given, list):
        there = [place for place in given if os.path.exists(str(place))]
        names = [_plain_name(value) for value in strategies.values()] if isinstance(strategies, Mapping) else []
        lost = any(not is_known("strategy", name, there) for name in names if name)
        out["plugins"] = [*there, str(kept)] if lost else there
    return out


def _with_files(value: object, kept: Path) -> object:
    """A strategy in a spec's mapping, which reads the files that the run kept of it, in ``kept``."""
    given = value.get("settings") if isinstance(value, Mapping) and kept.is_dir() else None
    if not isinstance(value, Mapping) or not isinstance(given, Mapping):
        return value
    there = {file.name: str(file) for file in kept.iterdir()}
    return {**value, "settings": {k: there.get(Path(x).name, x) if isinstance(x, str) else x for k, x in given.items()}}


def _plain_name(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("name")
    return value.partition("(")[0].strip() if isinstance(value, str) else ""


def _beside(value: object, folder: Path, kind: str) -> object:
    """A plugin in a spec's mapping; the name of a file that is missing becomes that of its copy."""
    named = {"name": value} if isinstance(value, str) else value
    if not isinstance(named, Mapping) or not (name := str(named.get("name"))).endswith(".py"):
        return value
    places = [Path(name), folder / name, folder / "plugins" / kind / Path(name).name]
    return {**named, "name": next((str(place) for place in places if place.is_file()), name)}
