"""Checkpoints of a run, with the trace up to each."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..checking.errors import Damaged, Notice, RecoptError
from ..engine import checkpoint
from ..engine.carry import carry
from ..engine.engine import Engine
from ..levels.graph import Graph
from ..levels.level import BILEVEL
from ..ranks.shared import ONE, Ranks
from ..tracking.trace import Trace, load_trace, save_trace
from .plan import Plan
from .selection.scores import Selection
from .selection.selector import Selector
from .spec import Spec
from .start import make_engine

CHECKPOINT, TRACE = "checkpoint.safetensors", "trace.npz"
_BEFORE = ".before-"
"""The prefix of the files of the checkpoint before the last one; a dot, so that they are not sent to a server."""
_SHARE = 20
"""Checkpoints take at most 1 / ``_SHARE`` of the run's time."""
_FIXED = {"task", "strategies", "levels", "tasks", "seed", "dtype"}
"""The fields of a spec that a resumed run must share with the one that it goes on from."""


class Checkpoints:
    """Saves and restores a run; keeps the last checkpoint and the one before it.

    Args:
        trace: the run's trace, from :func:`saved_trace`.
        selector: the selector of the exported values; None if it exports its last values.
        seconds: least time between two checkpoints; longer if one takes more than 5 % of it.
    """

    def __init__(self, spec: Spec, engine: Engine, trace: Trace, selector: Selector | None, seconds: float) -> None:
        self.spec, self.engine, self.trace, self.selector, self.seconds = spec, engine, trace, selector, seconds
        self._next = time.monotonic() + seconds
        self._note: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """True if a checkpoint is due."""
        return time.monotonic() > self._next

    def save(self, folder: Path | None) -> None:
        """Write the trace, then the checkpoint, which holds the length of the trace at that moment.

        Of several processes all take part; only the first has a ``folder``.

        Raises:
            RecoptError: for a state that cannot be saved, or a full disk; the previous checkpoint stays intact.
        """
        begin = time.monotonic()
        self.engine.keep_up()
        with _explained(folder):
            # The trace first: a longer one than a checkpoint needs serves it, if the run is killed between the two.
            if folder:
                for name in (TRACE, CHECKPOINT):
                    _keep(folder / name)
                save_trace(self.trace, folder / TRACE)
            self._note = {
                "trace": self.trace.lengths(), "selection": self.selector.plain() if self.selector else None,
                "spec": _fixed(self.spec, self.engine.graph), "threads": torch.get_num_threads(),
            }  # fmt: skip
            checkpoint.save(self.engine, folder and folder / CHECKPOINT, note=self._note)
        end = time.monotonic()
        self._next = end + max(self.seconds, _SHARE * (end - begin))

    def finish(self, folder: Path | None, chosen: Selection | None) -> None:
        """Add the results of the end to the last checkpoint: the whole trace, and the ``chosen`` values.

        A run that is resumed with more steps ignores both.
        """
        with _explained(folder):
            if chosen:
                note = {**self._note, "chosen": chosen.plain()}
                checkpoint.save(self.engine, folder and folder / CHECKPOINT, note=note)
            if folder:
                save_trace(self.trace, folder / TRACE)

    def load(self, folder: Path | None, origin: Plan | None = None) -> None:
        """Restore the run from the checkpoint in ``folder``, or go on from that of another plan, its ``origin``.

        Of several processes the first one has the folder.

        Raises:
            RecoptError: if there is none, or it is of another run; Damaged if it is damaged, or its trace is.
        """
        if origin is not None and folder is not None:
            return self._carry(folder, origin)
        note = checkpoint.load(self.engine, folder and folder / CHECKPOINT)
        mine = _fixed(self.spec, self.engine.graph)
        if odd := [key for key in mine if mine[key] != note["spec"][key]]:
            raise RecoptError(
                f"The checkpoint {(folder or Path()) / CHECKPOINT} is of a run with another '{odd[0]}': resume it with "
                "the spec.yaml that it was started with, or start a new run."
            )
        if self.selector and note["selection"]:
            self.selector.load(note["selection"])
        self.trace.truncate(note["trace"])
        if self.trace.lengths() != note["trace"]:
            raise Damaged(f"{(folder or Path()) / TRACE} ends before the checkpoint beside it.")
        if (now := torch.get_num_threads()) != note["threads"]:
            warnings.warn(
                f"The run was made with {note['threads']} threads of torch, and goes on with {now}: sums may be "
                f"rounded otherwise from here on (OMP_NUM_THREADS={note['threads']} keeps them).",
                Notice,
                stacklevel=2,
            )

    def _carry(self, folder: Path, origin: Plan) -> None:
        other = make_engine(origin.spec, origin.graph, origin.task)
        note = checkpoint.load(other, folder / CHECKPOINT)
        mine, theirs = self.spec.strategies, origin.spec.strategies

        def same(slot: str, name: str) -> bool:
            return slot in BILEVEL or mine[slot].settings.get(name) == theirs[slot].settings.get(name)

        carry(other, self.engine, same)
        self.trace.truncate(note["trace"])


def _fixed(spec: Spec, graph: Graph) -> dict[str, Any]:
    """The fixed fields of ``spec``, as JSON."""
    found = spec.model_dump(mode="json", include=_FIXED)
    for named in (found["task"], *found["strategies"].values()):
        named["name"] = Path(named["name"]).name  # the copy beside the spec may be taken
    for slot, named in found["strategies"].items():  # as of the files that strategies read
        own = named["settings"]
        own |= {option: Path(own[option]).name for option in graph.slots[slot].files if option in own}
    kept: dict[str, Any] = json.loads(json.dumps(found))
    return kept


def _keep(path: Path) -> None:
    """Keep the file ``path`` as the one before, without a moment at which there is none."""
    if not path.is_file():
        return
    draft = path.with_name(f"{_BEFORE}{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        os.link(path, draft)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, draft)
    draft.replace(path.with_name(_BEFORE + path.name))


def step_in(folder: Path) -> int:
    """The step of the checkpoint in ``folder``. Raises RecoptError if there is none, Damaged if it is damaged."""
    if not (folder / CHECKPOINT).is_file() and (spec := folder / "spec.yaml").is_file():
        raise RecoptError(
            f"There is no checkpoint in {folder}: the run was stopped before it wrote one, or it was moved. To start "
            f"it again: recopt run --spec {spec}"
        )
    with offered(folder):
        return checkpoint.check(folder / CHECKPOINT)


def go_back(folder: Path) -> None:
    """Put the checkpoint before the last one in its place. Raises RecoptError if there is none, Damaged as above."""
    if not (folder / (_BEFORE + CHECKPOINT)).is_file():
        raise RecoptError(f"There is one checkpoint in {folder}, and none before it: leave --previous out.")
    checkpoint.check(folder / (_BEFORE + CHECKPOINT))
    load_trace(folder / (_BEFORE + TRACE))
    for name in (TRACE, CHECKPOINT):
        (folder / (_BEFORE + name)).replace(folder / name)


@contextmanager
def offered(folder: Path) -> Iterator[None]:
    """Turn Damaged into an error that offers the checkpoint before, if that is whole."""
    try:
        yield
    except Damaged as why:
        try:
            step = checkpoint.check(folder / (_BEFORE + CHECKPOINT))
            load_trace(folder / (_BEFORE + TRACE))
        except RecoptError:
            raise RecoptError(f"{why} No checkpoint before it is whole: restore it, or start a new run.") from why
        raise RecoptError(f"{why} The one before it, of step {step:,}, is whole: add --previous.") from why


@contextmanager
def _explained(folder: Path | None) -> Iterator[None]:
    """Turn an error in writing to ``folder`` into a RecoptError with the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as why:
        reason = (isinstance(why, OSError) and why.strerror) or str(why).rpartition("I/O error: ")[2]
        raise RecoptError(
            f"The run cannot be saved in {folder} ({reason}): mend that, and --resume goes on from its last checkpoint."
        ) from why


def saved_trace(folder: Path | None, steps: int, ranks: Ranks = ONE) -> Trace:
    """The trace saved in ``folder``, which :meth:`Checkpoints.load` truncates; an empty one if there is none.

    The first of several processes gives it to the others.
    """
    file = folder / TRACE if folder is not None and (folder / TRACE).is_file() else None
    if not ranks or ranks.link is None:
        return load_trace(file, steps) if file else Trace(steps)
    data = ranks.link.scatter([file.read_bytes() if file else b""] * ranks.world if ranks.rank == 0 else [])
    with tempfile.TemporaryDirectory() as place:
        (copy := Path(place) / TRACE).write_bytes(data)
        return load_trace(copy, steps) if data else Trace(steps)
