"""A process beside a long run that sends its messages, so that the run itself spends no time on it.

MLflow needs about 100 µs of Python for each point. In the run's own process, that would take more than half of the
time of a run with thirty columns and five milliseconds per step. The process ends when its standard input is closed,
so also when the run is killed, after it has sent the remaining messages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...checking.processes import command
from .address import Unopened
from .spool import Message, SpoolReader, Unreachable, send_left, spool_folder

EVERY = 0.5  # seconds between two readings of the spool
FIRST_WAIT, LONGEST_WAIT = 30.0, 600.0  # seconds before a store that failed is tried again; doubles each time
LAST = 60.0  # seconds for the remaining messages at the end, if the store takes them
UNREACHED = 3  # the exit status if the store does not answer


class Sender:
    """The process that sends the spool at ``path`` to the store at ``address``. Raises OSError if it does not start."""

    def __init__(self, address: str, root: Path, path: Path) -> None:
        # In a session of its own: a Ctrl-C is for the run, which then tells this process to finish.
        process = subprocess.Popen(
            command("recopt.tracking.mlflow.sender"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        self._process, self._input, self._output = process, process.stdin, process.stdout
        os.set_blocking(self._output.fileno(), False)
        # Not as arguments, which every user of the machine can read: an address may hold a password.
        self._input.write(json.dumps([address, str(root), str(path)]).encode() + b"\n")
        self._input.flush()

    def troubles(self) -> list[tuple[str, str]]:
        """Troubles since the last call: pairs of ``away`` or ``refused`` and the reason in a few words."""
        return [tuple(json.loads(line)) for line in (self._output.read() or b"").splitlines()]

    def finish(self) -> bool:
        """Make the process send the remaining messages and end. False if the store does not answer."""
        with suppress(OSError):
            self._input.close()
        try:
            return self._process.wait(LAST + 30.0) != UNREACHED
        except subprocess.TimeoutExpired:
            return False
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """Close the process's pipes, after :meth:`finish`."""
        self._output.close()


def main() -> None:
    """Send until standard input is closed; its first line names the store, the runs folder and the spool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):
        os.nice(5)  # training goes first
    address, root, path = json.loads(sys.stdin.buffer.readline())
    over = threading.Event()

    def listen() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    sys.exit(_send(address, Path(root), SpoolReader(Path(path)), over))


def _send(address: str, root: Path, spool: SpoolReader, over: threading.Event) -> int:
    from .store import open_store

    take: Callable[[Message], None] | None = None
    wait, again_at = FIRST_WAIT, 0.0
    while True:
        last = over.wait(EVERY)
        if not last and time.monotonic() < again_at:
            continue
        try:
            take = take or open_store(address, root).take
            done, wait = spool.send(take, LAST if last else EVERY), FIRST_WAIT
            if done and not last:
                send_left(spool_folder(root, address), take, EVERY)
        except FileNotFoundError:  # the run is over and has removed it
            return 0
        except (Unreachable, Unopened) as why:
            _tell("away", why.reason if isinstance(why, Unopened) else str(why))
            again_at, wait = time.monotonic() + wait, min(LONGEST_WAIT, 2 * wait)
            if last:
                return UNREACHED
        if spool.refused:
            _tell("refused", spool.refused)
            spool.refused = ""
        if last:
            return 0


def _tell(kind: str, reason: str) -> None:
    print(json.dumps([kind, reason]), flush=True)
