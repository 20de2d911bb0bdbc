"""Delivery of a run's messages: into a spool on this machine first, and from there to the store."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .address import shown
from .sender import LAST, Sender
from .spool import Message, Spool, Unreachable, send_left
from .store import Store

_SHORT = 5.0  # seconds: shorter runs need no second process
_TROUBLES = {
    "away": "The store {store} does not answer ({why}): the run goes on, and what it records is kept in {spool} and "
    "sent later, at the latest by the next run on this store.",
    "refused": "The store {store} refused records of this run ({why}): they are in its trace, but not in the store.",
    "unwritten": "{spool} cannot be written ({why}): the run goes on, and what it records waits in memory to be sent "
    "at its end.",
    "removed": "{spool} cannot be read ({why}): what it had for the store is lost.",
    "lost": "The last {why} messages for the store {store} could neither be written nor sent: resume the run, and they "
    "are sent from its trace.",
}


class Outbox:
    """Delivers messages to the store: into the spool first, from there by a second process if the run is not short.

    While the spool cannot be written, messages wait in memory, in order; at the end they go to the store directly.
    """

    def __init__(self, store: Store, path: Path, notify: Callable[[str], None]) -> None:
        self._store, self._spool, self._notify = store, Spool(path), notify
        self._unwritten = deque[Message]()
        self._sender: Sender | None = None
        self._sender_at, self._notified = time.monotonic() + _SHORT, set[str]()

    def keep(self, message: Message) -> None:
        """Write ``message`` into the spool."""
        self._unwritten.append(message)
        try:
            while self._unwritten:
                self._spool.append(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as why:  # a full disk, say
            self._tell("unwritten", why.strerror)

    def flush(self) -> None:
        """Make sure that the spool is being sent; returns at once."""
        if self._sender is None and time.monotonic() > self._sender_at:
            self._sender_at = math.inf  # try once: without a process, all is sent at the end
            with suppress(OSError):
                self._sender = Sender(self._store.address, self._store.root, self._spool.path)
        for kind, why in self._sender.troubles() if self._sender else ():
            self._tell(kind, why)

    def unsent_steps(self) -> dict[tuple[str, str], int]:
        """The last step of each run and metric that waits in the spool."""
        last: dict[tuple[str, str], int] = {}
        for message in self._spool.unsent():
            for key, _, _, step in message.get("points", []):
                last[message["run"], key] = max(step, last.get((message["run"], key), -1))
        return last

    def send_others(self, seconds: float) -> None:
        """Send the messages that earlier runs left."""
        self._attempt(lambda: send_left(self._store.spools, self._store.take, seconds))

    def finish(self) -> None:
        """Send all remaining messages, or leave them to a later run."""
        answered = True
        if self._sender is not None:
            answered = self._sender.finish()
            self.flush()
            if not answered:
                self._tell("away", "it took too long")
            self._sender.close()
        done = answered and self._attempt(self._send_all)
        if self._unwritten:
            self._tell("lost", len(self._unwritten))
        if self._spool.refused:
            self._tell("refused", self._spool.refused)
        self._spool.close(remove=done)
        if done:
            self.send_others(LAST)

    def _send_all(self) -> bool:
        done = self._spool.send(self._store.take, LAST)
        while done and self._unwritten:
            self._spool.give(self._unwritten[0], self._store.take)
            self._unwritten.popleft()
        return done

    def _attempt(self, send: Callable[[], bool]) -> bool:
        try:
            return send()
        except Unreachable as why:
            self._tell("away", why)
        except OSError as why:  # someone removed it
            self._tell("removed", why.strerror)
        return False

    def _tell(self, kind: str, why: object) -> None:
        """Notify of trouble, once for each kind."""
        if kind not in self._notified:
            self._notified.add(kind)
            self._notify(_TROUBLES[kind].format(store=shown(self._store.address), spool=self._spool.path, why=why))
