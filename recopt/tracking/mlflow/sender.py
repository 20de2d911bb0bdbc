"""A process beside a long run that sends its records, so that the run itself spends no time on it.

MLflow needs about 100 µs of Python for each point. In the run's own process, that would take more than half of the
time of a run with thirty columns and five milliseconds per step. The process ends when its standard input is closed,
so also when the run is killed, after it has sent the remaining records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from ...contracts.errors import RecoptError
from .spool import Outbox, Unreachable

EVERY = 0.5  # seconds between two readings of the spool
FIRST_WAIT, LONGEST_WAIT = 30.0, 600.0  # seconds before a store that failed is tried again; doubles each time
LAST = 60.0  # seconds for the remaining records at the end, if the store takes them
AWAY = 3  # the exit status if the store does not answer
_CODE = "import sys; sys.path.append(sys.argv[1]); from recopt.tracking.mlflow.sender import main; main()"


class Sender:
    """The process that sends the spool at ``path`` to the store at ``uri``. Raises OSError if it cannot be started."""

    def __init__(self, uri: str, root: Path, path: Path) -> None:
        package = Path(__file__).parents[3]
        # -P: nothing in the current folder is what it imports.
        command = [sys.executable, "-P", "-c", _CODE, str(package), uri, str(root), str(path)]
        # In a session of its own: a Ctrl-C is for the run, which then tells this process to finish.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def trouble(self) -> str:
        """The store's last failure to answer since the last call, in words; empty if there was none."""
        assert self._process.stdout is not None
        lines = (self._process.stdout.read() or b"").decode().splitlines()
        return lines[-1] if lines else ""

    def finish(self) -> bool:
        """Make the process send the remaining records and end. False if the store does not answer."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            status = self._process.wait(LAST + 30.0)
        except subprocess.TimeoutExpired:
            status = AWAY
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        return status != AWAY

    def close(self) -> None:
        """Close the process's pipes, after :meth:`finish`."""
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    """Send until standard input is closed; arguments: the package's folder, store, runs folder, spool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):
        os.nice(5)  # training goes first
    uri, root, path = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    over = threading.Event()

    def listen() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    sys.exit(_send(uri, root, Outbox(path), over))


def _send(uri: str, root: Path, outbox: Outbox, over: threading.Event) -> int:
    from .store import open_store

    take, wait, again_at = None, FIRST_WAIT, 0.0
    while True:
        last = over.wait(EVERY)
        if not last and time.monotonic() < again_at:
            continue
        try:
            take = take or open_store(uri, root).take
            if outbox.send(take, LAST if last else EVERY) and last:
                return 0
            wait = FIRST_WAIT
        except FileNotFoundError:  # the run is over and has removed it
            return 0
        except (Unreachable, RecoptError) as why:
            print(why, flush=True)
            again_at, wait = time.monotonic() + wait, min(LONGEST_WAIT, 2 * wait)
            if last:
                return AWAY
        if last:
            return 0
