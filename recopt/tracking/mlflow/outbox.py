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


class Outbox:
    """Delivers messages to the store: into the spool first, from there by a second process if the run is not short.

    While the spool cannot be written, messages wait in memory, in order; at the end they go to the store directly.
    """

    def __init__(self, store: Store, path: Path, notify: Callable[[str], None]) -> None:
        self._store, self._spool, self._notify = store, Spool(path), notify
        self._unwritten = deque[Message]()
        self._sender: Sender | None = None
        self._sender_at, self._told = time.monotonic() + _SHORT, set[str]()

    def keep(self, message: Message) -> None:
        """Write ``message`` into the spool."""
        self._unwritten.append(message)
        try:
            while self._unwritten:
                self._spool.append(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as why:  # a full disk, say
            self._tell(
                "unwritten", f"{self._spool.path} cannot be written ({why.strerror}): the run goes on, and what it "
                "records waits in memory to be sent at its end.",
            )  # fmt: skip

    def flush(self) -> None:
        """Make sure that the spool is being sent; returns at once."""
        if self._sender is None and time.monotonic() > self._sender_at:
            self._sender_at = math.inf  # try once: without a process, all is sent at the end
            with suppress(OSError):
                self._sender = Sender(self._store.address, self._store.root, self._spool.path)
        self._tell_troubles()

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
            self._tell_troubles()
            if not answered:
                self._tell_away("it took too long")
            self._sender.close()
        done = answered and self._attempt(lambda: self._spool.send(self._store.take, LAST)) and self._send_unwritten()
        if self._unwritten:
            self._tell(
                "lost", f"The last {len(self._unwritten)} messages for the store {shown(self._store.address)} could "
                "neither be written nor sent: resume the run, and they are sent from its trace.",
            )  # fmt: skip
        if self._spool.refused:
            self._tell_refused(self._spool.refused)
        self._spool.close(remove=done)
        if done:
            self.send_others(LAST)

    def _send_unwritten(self) -> bool:
        def send() -> bool:
            while self._unwritten:
                self._spool.give(self._unwritten[0], self._store.take)
                self._unwritten.popleft()
            return True

        return self._attempt(send)

    def _attempt(self, send: Callable[[], bool]) -> bool:
        try:
            return send()
        except Unreachable as why:
            self._tell_away(str(why))
        except OSError as why:  # someone removed it
            self._tell("removed", f"{self._spool.path} cannot be read ({why.strerror}): what it had for the store is "
                       "lost.")  # fmt: skip
        return False

    def _tell_troubles(self) -> None:
        for kind, reason in self._sender.troubles() if self._sender is not None else ():
            (self._tell_away if kind == "away" else self._tell_refused)(reason)

    def _tell_away(self, why: str) -> None:
        self._tell(
            "away", f"The store {shown(self._store.address)} does not answer ({why}): the run goes on, and what it "
            f"records is kept in {self._spool.path} and sent later, at the latest by the next run on this store.",
        )  # fmt: skip

    def _tell_refused(self, why: str) -> None:
        self._tell("refused", f"The store {shown(self._store.address)} refused records of this run ({why}): they are "
                   "in its trace, but not in the store.")  # fmt: skip

    def _tell(self, kind: str, sentence: str) -> None:
        """Notify, once for each kind of trouble."""
        if kind not in self._told:
            self._told.add(kind)
            self._notify(sentence)
