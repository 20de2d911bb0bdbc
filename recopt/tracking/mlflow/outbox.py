"""Delivery of a run's records: into a spool on this machine first, and from there to the store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .sender import Sender
from .spool import Record, Spool, Unreachable, replay
from .store import Store
from .store_uri import shown

_SHORT = 5.0  # seconds: shorter runs need no second process


class Post:
    """Delivers records to the store: into the spool first, from there by a second process if the run is not short."""

    def __init__(self, store: Store, path: Path, notify: Callable[[str], None]) -> None:
        self._store, self._spool, self._notify = store, Spool(path), notify
        self._sender: Sender | None = None
        self._sender_at, self._told = time.monotonic() + _SHORT, False

    def keep(self, record: Record) -> None:
        """Write ``record`` into the spool."""
        try:
            self._spool.append(record)
        except OSError as why:  # a full disk, say
            self._tell(
                f"{self._spool.path} cannot be written ({why.strerror}): the run goes on, but its record "
                "has gaps; its trace is complete if it can still be written."
            )

    def flush(self) -> None:
        """Make sure that the spool is being sent; returns at once."""
        if self._sender is None and time.monotonic() > self._sender_at:
            self._sender_at = math.inf  # try once: without a process, all is sent at the end
            with suppress(OSError):
                self._sender = Sender(self._store.uri, self._store.root, self._spool.path)
        if self._sender is not None and (why := self._sender.trouble()):
            self._tell_away(why)

    def unsent_steps(self) -> dict[tuple[str, str], int]:
        """The last step of each run and metric that waits in the spool."""
        last: dict[tuple[str, str], int] = {}
        for record in self._spool.unsent():
            for key, _, _, step in record.get("points", []):
                last[record["run"], key] = max(step, last.get((record["run"], key), -1))
        return last

    def send_others(self, seconds: float) -> None:
        """Send the records that earlier runs left."""
        self._attempt(lambda: replay(self._store.spools, self._store.take, seconds))

    def finish(self) -> None:
        """Send all remaining records, or leave them to a later run."""
        answered = True
        if self._sender is not None:
            answered = self._sender.finish()
            if not answered:
                self._tell_away(self._sender.trouble() or "it took too long")
            self._sender.close()
        done = answered and self._attempt(lambda: self._spool.send(self._store.take, seconds=60.0))
        self._spool.close(remove=done)
        if done:
            self.send_others(10.0)

    def _attempt(self, send: Callable[[], bool]) -> bool:
        try:
            return send()
        except Unreachable as why:
            self._tell_away(str(why))
        except OSError as why:  # someone removed it
            self._tell(f"{self._spool.path} cannot be read ({why.strerror}): what it had for the store is lost.")
        return False

    def _tell_away(self, why: str) -> None:
        self._tell(
            f"The store {shown(self._store.uri)} does not answer ({why}): the run goes on, and what it records "
            f"is kept in {self._spool.path} and sent later, at the latest by the next run on this store."
        )

    def _tell(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._notify(sentence)
