"""Checkpoints of a run, with the trace up to each."""

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
from .selection.scores import Selection
from .selection.selector import Selector

CHECKPOINT, TRACE = "checkpoint.safetensors", "trace.npz"
_SHARE = 20
"""Checkpoints take at most 1 / ``_SHARE`` of the run's time."""


class Checkpoints:
    """Saves and restores a run.

    Args:
        trace: the run's trace, from :func:`saved_trace`.
        selector: the selector of the exported values; None if it exports its last values.
        seconds: least time between two checkpoints; longer if one takes more than 5 % of it.
    """

    def __init__(self, engine: Engine, trace: Trace, selector: Selector | None, seconds: float) -> None:
        self.engine, self.trace, self.selector, self.seconds = engine, trace, selector, seconds
        self._next = time.monotonic() + seconds
        self._note: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """True if a checkpoint is due."""
        return time.monotonic() > self._next

    def save(self, folder: Path) -> None:
        """Write the trace, then the checkpoint, which holds the length of the trace at that moment.

        Raises:
            RecoptError: for a state that cannot be saved, or a full disk; the previous checkpoint stays intact.
        """
        begin = time.monotonic()
        with _explained(folder):
            save_trace(self.trace, folder / TRACE)
            self._note = {"trace": self.trace.lengths(), "selection": self.selector.plain() if self.selector else None}
            checkpoint.save(self.engine, folder / CHECKPOINT, note=self._note)
        end = time.monotonic()
        self._next = end + max(self.seconds, _SHARE * (end - begin))

    def finish(self, folder: Path, chosen: Selection | None) -> None:
        """Add the results of the end to the last checkpoint: the whole trace, and the ``chosen`` values.

        A run that is resumed with more steps ignores both.
        """
        with _explained(folder):
            if chosen:
                checkpoint.save(self.engine, folder / CHECKPOINT, note={**self._note, "chosen": chosen.plain()})
            save_trace(self.trace, folder / TRACE)

    def load(self, folder: Path) -> None:
        """Restore the run from the checkpoint in ``folder``. Raises RecoptError if there is none."""
        note = checkpoint.load(self.engine, folder / CHECKPOINT)
        if not isinstance(note, dict):  # a checkpoint from before runs could choose values
            note = {"trace": note}
        if self.selector and note.get("selection"):
            self.selector.load(note["selection"])
        self.trace.truncate(note["trace"] or [])


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn an error in writing to ``folder`` into a RecoptError with the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as why:
        reason = (isinstance(why, OSError) and why.strerror) or str(why).rpartition("I/O error: ")[2]
        raise RecoptError(
            f"The run cannot be saved in {folder} ({reason}): mend that, and --resume goes on from its last checkpoint."
        ) from why


def saved_trace(folder: Path | None, steps: int) -> Trace:
    """The trace saved in ``folder``, which :meth:`Checkpoints.load` truncates; an empty one if there is none."""
    if folder is not None and (folder / TRACE).is_file():
        return load_trace(folder / TRACE, steps)
    return Trace(steps)
