"""The spool: messages on their way to a store, kept in a local file until the store has them.

Every message of a run goes through here, whether the store answers or not. A message is idempotent (a point
carries its own time stamp, by which a store knows it again), so it may be sent twice. A spool that outlives
its run is sent by the next run on the same store.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .address import identity

fcntl: Any
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where an open file cannot be removed, which serves as the lock
    fcntl = None

_DAY = 86400.0  # seconds until a spool counts as abandoned, where files cannot be locked
Message = dict[str, Any]
"""``run`` (id) and one of ``points`` [[key, value, milliseconds, step], …] (with ``copy``, a run and a prefix, to be
written there too), ``child`` (the number of a nested run, with what :meth:`.children.Children.take` reads), ``files``
(with the ``folder`` they are relative to), ``tags``, ``end`` (a status, with its ``time``), or ``alive`` (the ids of
all runs that start or resume here)."""


class Unreachable(Exception):
    """The store cannot take a message now, but may later. The text says why, in a few words."""


class Refused(Exception):
    """The store will never take this message (its run was deleted, say)."""


def try_lock(file: IO[Any]) -> bool | None:
    """Lock an open file until it is closed or this process ends. False if another has it, None if locks do not work."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; wait for any other process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def spool_folder(root: Path, address: str) -> Path:
    """The folder, below the runs folder ``root``, of the spools of the store at ``address``, whatever its password."""
    return root / ".spool" / hashlib.sha256(identity(address).encode()).hexdigest()[:12]


class SpoolReader:
    """The sending side of a spool: reads messages from the file's mark on, and moves the mark.

    Attributes:
        refused: the last reason for which the store refused a message, which is then left out; empty if it took all.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.refused, self._mark = path, "", path.with_suffix(".sent")

    def send(self, take: Callable[[Message], None], seconds: float) -> bool:
        """Give unsent messages to ``take`` in order, for about ``seconds``. True if none is left.

        Raises:
            Unreachable: if ``take`` does; the messages that it took before are not sent again.
        """
        until, sent = time.monotonic() + seconds, self._sent()
        start = sent
        try:
            with self.path.open("rb") as file:
                file.seek(sent)
                while time.monotonic() < until:
                    line = file.readline()
                    if not line.endswith(b"\n"):  # the end, or a line still being written
                        return True
                    with suppress(ValueError):  # a line cut short when its writer was killed
                        self.give(json.loads(line), take)
                    sent += len(line)
            return sent == self.path.stat().st_size
        finally:
            if sent > start:
                with suppress(OSError):  # a full disk: they are sent again, which changes nothing
                    self._mark.write_text(str(sent))

    def give(self, message: Message, take: Callable[[Message], None]) -> None:
        """Give one message to ``take``, and remember if it is refused."""
        try:
            take(message)
        except Refused as why:
            self.refused = str(why)

    def unsent(self) -> Iterator[Message]:
        """The messages that are not sent yet."""
        with self.path.open("rb") as file:
            file.seek(self._sent())
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)

    def _sent(self) -> int:
        try:
            return min(int(self._mark.read_text()), self.path.stat().st_size)
        except (OSError, ValueError):
            return 0


class Spool(SpoolReader):
    """One run's messages, in a file of JSON lines; a second file holds the number of bytes sent.

    Raises:
        BlockingIOError: if another process, still alive, owns this spool.
        OSError: if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._owned = try_lock(self._file)
        if self._owned is False:
            self._file.close()
            raise BlockingIOError(f"{path} is in use")
        with path.open("rb") as file:  # a line cut short when its writer was killed is a line of its own
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
                self._write(b"\n")

    def append(self, message: Message) -> None:
        """Keep ``message``, whose values may be NaN, until it is sent. Raises OSError if it cannot be written."""
        self._write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        size, left = os.fstat(self._file.fileno()).st_size, memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self, remove: bool) -> None:
        """Close the file, and ``remove`` it if all was sent."""
        if os.name != "posix":
            self._file.close()  # else it cannot be removed
        if remove:
            self.path.unlink(missing_ok=True)
            self._mark.unlink(missing_ok=True)
        self._file.close()

    def in_use(self) -> bool:
        """True if another process may still write here: locks do not work, and the file is less than a day old."""
        return self._owned is None and time.time() < self.path.stat().st_mtime + _DAY

    def killed(self) -> set[str]:
        """The ids of runs that started here and did not end: their process was killed."""
        alive: set[str] = set()
        with self.path.open("rb") as file:
            for line in file if self._owned else ():
                with suppress(ValueError):
                    message = json.loads(line)
                    alive |= set(message.get("alive", ()))
                    alive -= {message["run"]} if "end" in message else set()
        return alive


def left(path: Path) -> str | None:
    """The status in which a process that is gone left the run of the spool at ``path``; None if it is not gone."""
    status = None
    with suppress(OSError), path.open("rb") as file:
        if try_lock(file) is not True:
            return None
        status = "KILLED"
        for line in file:
            with suppress(ValueError):
                message = json.loads(line)
                status = message.get("end", status) if message["run"] == path.stem else status
                status = "KILLED" if "alive" in message else status
    return status


def send_left(folder: Path, take: Callable[[Message], None], seconds: float) -> bool:
    """Send the messages that earlier runs left in ``folder``, for about ``seconds``. True if none is left.

    Raises:
        Unreachable: if ``take`` does.
    """
    until, clear = time.monotonic() + seconds, True
    for path in sorted(folder.glob("*.jsonl")):
        if time.monotonic() >= until:
            return False
        try:
            spool = Spool(path)
        except OSError:
            continue
        done = False
        try:
            if spool.in_use():
                continue
            done = spool.send(take, until - time.monotonic())
            for run in spool.killed() if done else ():
                spool.give({"run": run, "end": "KILLED", "time": int(path.stat().st_mtime * 1000)}, take)
        finally:
            spool.close(remove=done)
        clear = clear and done
    return clear
