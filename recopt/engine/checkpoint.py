"""The run state in one file, without pickle: tensors as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file
from torch import Tensor

from ..checking.digests import digest
from ..checking.errors import Damaged, RecoptError
from ..contracts import trees
from ..levels.level import TASK
from ..levels.packing import pack, unpack
from ..levels.seeds import mix
from ..levels.state import RunState
from .budget import Budget
from .engine import Engine
from .shares import divided, joined

CPU = torch.device("cpu")
FORMAT = "2"


def save(engine: Engine, path: Path | None, note: Any = None) -> None:
    """Write what :func:`load` continues from, bit for bit; the file is replaced as a whole or not at all.

    Of several processes all take part, and the first one writes the state of all of their tasks; the others have no
    ``path``.

    What is written is the last moment at which no tape was open, and how many steps have passed since:
    a graph cannot be saved, but the steps can be taken again. ``note`` (dicts, lists, tensors, numbers)
    is kept with it.
    """
    pack([own.parts for own in engine.state.levels], {})  # told now, and not when they are in a clean moment
    state = engine.clean
    if engine.ranks and (link := engine.ranks.link):
        parts = link.gather(_sent(state))
        if not parts or path is None:
            return
        state = joined([_received(part, CPU) for part in parts], engine.graph)
    assert path is not None
    found: dict[int, tuple[str, Tensor]] = {}
    header = {
        "ranks": engine.ranks.world,
        "step": engine.state.step,
        "replay": engine.replay,
        "budget": engine.budget.plain(),
        "note": pack(note, found),
        "state": pack(state, found),
    }
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in found.values()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        text = json.dumps(header)
        save_file(tensors, temporary, metadata={"format": FORMAT, "recopt": text, "sha256": _digest(text, tensors)})
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    """The digest of all that a checkpoint holds."""
    named = {f"{name} {t.dtype} {tuple(t.shape)}": t for name, t in tensors.items()}
    values = [(name, t.reshape(-1).view(torch.uint8).numpy()) for name, t in named.items()]
    return digest([("", header.encode()), *values])


def check(path: Path) -> int:
    """The step that a checkpoint was written at. Raises RecoptError if there is none, Damaged if it is damaged."""
    return int(_open(path)[0]["step"])


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise RecoptError(f"There is no checkpoint at {path}: the run wrote none, or it was moved.")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            form, text, known = about["format"], about["recopt"], about["sha256"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError:
        raise Damaged(f"{path} is damaged, or no checkpoint of this version of recopt.") from None
    except (SafetensorError, OSError, ValueError) as why:
        raise Damaged(f"{path} is damaged, or no checkpoint of recopt ({why}).") from None
    if form != FORMAT:
        raise Damaged(f"{path} has format {form}, and this recopt reads {FORMAT}: use the one that wrote it.")
    if _digest(text, tensors) != known:
        raise Damaged(f"{path} is damaged: what it holds is not what was written.")
    return json.loads(text), tensors


def load(engine: Engine, path: Path | None) -> Any:
    """Bring ``engine``, made from the same spec, to where the checkpoint was written; the note kept with it.

    Of several processes the first one reads, and each gets its part; the others have no ``path``.

    Raises:
        RecoptError: if there is no checkpoint, or it belongs to another graph or task; Damaged if it is damaged.
    """
    found: Any = _found(engine, path) if path else None
    if engine.ranks and (link := engine.ranks.link):
        given = [] if found is None else [_sent(_part(engine, found, rank)) for rank in range(link.world)]
        found = _received(link.scatter(given), engine.device)
    state: RunState = found["state"]
    # The tasks of another draw may have models of another structure.
    task = engine.family.fresh(state.slots[TASK].draw)
    own = {**engine.state.slots, TASK: task}
    mine = {name: [tuple(p.shape) for p in slot.params] for name, slot in own.items()}
    theirs = {name: [tuple(p.shape) for p in slot.params] for name, slot in state.slots.items()}
    if mine != theirs or len(state.levels) != len(engine.levels):
        odd = next((n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n)), "levels")
        raise RecoptError(
            f"The checkpoint {path} is of another graph ('{odd}' differs): resume it with the spec beside it."
        )
    engine.resume(state, found["replay"], Budget.from_plain(found["budget"]))
    return trees.tree_map(Tensor.cpu, found["note"])


def _found(engine: Engine, path: Path) -> dict[str, Any]:
    """The contents of a checkpoint."""
    header, tensors = _open(path)
    state = unpack(header["state"], tensors, CPU if engine.ranks else engine.device)
    note = unpack(header.get("note"), tensors, CPU)
    return {**{key: header[key] for key in ("ranks", "step", "replay", "budget")}, "state": state, "note": note}


def _part(engine: Engine, found: dict[str, Any], rank: int) -> dict[str, Any]:
    """The part of what is in a checkpoint that is for process ``rank``."""

    def rng(streams: Sequence[Tensor]) -> list[Tensor]:
        each = len(streams) // found["ranks"]
        own = list(streams[rank * each : (rank + 1) * each])
        return own or engine.stream.of(mix(engine.seed, 1, rank, found["step"]))

    return {**found, "state": divided(found["state"], engine.graph, engine.ranks.share(engine.tasks, rank), rng)}


def _sent(tree: Any) -> bytes:
    """A tree as one process sends it to another."""
    found: dict[int, tuple[str, Tensor]] = {}
    text = json.dumps(pack(tree, found)).encode()
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in found.values()}
    return to_bytes({**tensors, "tree": torch.frombuffer(bytearray(text), dtype=torch.uint8)})


def _received(data: bytes, device: torch.device) -> Any:
    tensors = from_bytes(data)
    return unpack(json.loads(bytes(tensors.pop("tree").numpy())), tensors, device)


def read(path: Path) -> tuple[RunState, int]:
    """The state in a checkpoint (its last clean moment), on the CPU, and the step it was written at."""
    header, tensors = _open(path)
    return unpack(header["state"], tensors, torch.device("cpu")), header["step"]
