"""What a run goes on from: a checkpoint, with the trace up to it, written every so often."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..contracts.errors import RecoptError
from ..engine import checkpoint
from ..engine.engine import Engine
from ..tracking.trace import Trace, load_trace, save_trace
from .selection.chooser import Chooser
from .selection.chosen import Chosen

CHECKPOINT, TRACE = "checkpoint.safetensors", "trace.npz"
_SHARE = 20
"""A checkpoint takes one part in so many of the time, at most."""


class Saving:
    """Saves a run, and brings it back.

    Args:
        trace: of the run, as :func:`saved_trace` gives it.
        chooser: that of a run which chooses the values that it hands on.
        seconds: between checkpoints, at least; more where one takes more than 5 % of that.
    """

    def __init__(self, engine: Engine, trace: Trace, chooser: Chooser | None, seconds: float) -> None:
        self.engine, self.trace, self.chooser, self.seconds = engine, trace, chooser, seconds
        self._next = time.monotonic() + seconds
        self._note: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() > self._next

    def save(self, folder: Path) -> None:
        """Write the trace, then the checkpoint, which says how much of the trace belongs to it.

        Raises:
            RecoptError: for a state that cannot be saved, or a disk that is full; what was saved before is whole.
        """
        begin = time.monotonic()
        with _told(folder):
            save_trace(self.trace, folder / TRACE)
            self._note = {"trace": self.trace.lengths(), "choosing": self.chooser.plain() if self.chooser else None}
            checkpoint.save(self.engine, folder / CHECKPOINT, note=self._note)
        end = time.monotonic()
        self._next = end + max(self.seconds, _SHARE * (end - begin))

    def finish(self, folder: Path, chosen: Chosen | None) -> None:
        """Add to what was saved last what came of the end: the whole trace, and the values that were ``chosen``.

        If the run is made longer, it goes on from what was saved last, with none of this.
        """
        with _told(folder):
            if chosen:
                checkpoint.save(self.engine, folder / CHECKPOINT, note={**self._note, "chosen": chosen.plain()})
            save_trace(self.trace, folder / TRACE)

    def load(self, folder: Path) -> None:
        """Go to where the run was when it was saved in ``folder``. Raises RecoptError if nothing was saved there."""
        note = checkpoint.load(self.engine, folder / CHECKPOINT)
        if not isinstance(note, dict):  # of a version that knew nothing of choosing
            note = {"trace": note}
        if self.chooser and note.get("choosing"):
            self.chooser.load(note["choosing"])
        self.trace.truncate(note["trace"] or [])


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What writes into ``folder``: where it cannot, that is told with the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as why:
        reason = (isinstance(why, OSError) and why.strerror) or str(why).rpartition("I/O error: ")[2]
        raise RecoptError(
            f"The run cannot be saved in {folder} ({reason}): mend that, and --resume goes on from its last checkpoint."
        ) from why


def saved_trace(folder: Path | None, steps: int) -> Trace:
    """The trace in ``folder``, to be shortened by :meth:`Saving.load`; an empty one if there is none."""
    if folder is not None and (folder / TRACE).is_file():
        return load_trace(folder / TRACE, steps)
    return Trace(steps)
