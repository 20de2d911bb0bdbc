"""MLflow's own user interface, started on a store and opened at the list of runs."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...checking.errors import RecoptError
from .address import web_address
from .store import RUNS, Store, open_store
from .views import page_of

PORTS = range(5000, 5020)
_START = 120.0  # seconds until the server must answer; it takes about five, on a busy machine thirty


def ui(
    store: str | None = None, host: str = "127.0.0.1", port: int | None = None, run: str | None = None,
    root_dir: Path = RUNS, say: Callable[[str], None] = print, browser: bool = True,
) -> None:  # fmt: skip
    """Serve MLflow's pages on ``store`` until Ctrl-C, a kill (SIGTERM), or the end of the terminal.

    For a store that is a server already, only the link is shown.

    Args:
        port: the first free one from 5000 if not given.
        run: an id or name (see :func:`find_run`) to open at, else the list of runs.
        say: gets the link, once the pages answer.
        browser: open the link in a browser, where there is a screen.

    Raises:
        RecoptError: if the store or the run is not there, the port is taken, or the server does not start.
    """
    opened = open_store(store, root_dir)
    page = page_of(opened, store, run, root_dir)
    if opened.address.startswith("http"):
        _show(f"{web_address(opened.address)}/{page}", say, browser)
        return
    number = _free_port(host, port)
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{number}"
    with suppress(KeyboardInterrupt), _like_ctrl_c():
        server = _serve(opened, host, number)
        try:
            _await(server, address)
            _show(f"{address}/{page}", say, browser)
            say("Ctrl-C ends it.")
            if server.wait():
                raise RecoptError(f"The server of the user interface ended with status {server.returncode}.")
        finally:
            _stop(server)


def _free_port(host: str, port: int | None) -> int:
    for candidate in PORTS if port is None else [port]:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, candidate))
            except PermissionError:
                raise RecoptError(f"Port {candidate} may not be used: give a higher one with --port.") from None
            except OSError as why:
                if why.errno != errno.EADDRINUSE:  # such as a host name that is not known
                    raise RecoptError(f"'{host}' is not an address of this machine: leave --host out.") from None
                continue
            return candidate
    taken = f"Port {port} is" if port is not None else f"Ports {PORTS.start} to {PORTS.stop - 1} are"
    raise RecoptError(f"{taken} taken: give another with --port.")


def _serve(store: Store, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that Ctrl-C reaches it only through this process, and once."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": store.address,  # every user of the machine can read arguments
        "MLFLOW_ARTIFACTS_DESTINATION": (store.root / "mlartifacts").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore",
        "PYTHONSAFEPATH": "1",
    }  # fmt: skip
    store.spools.mkdir(parents=True, exist_ok=True)
    with (store.root / "ui.log").open("wb") as log:
        return subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=store.spools,  # the server imports what is in its folder: here are no modules of the user's
        )  # fmt: skip


def _await(server: subprocess.Popen[bytes], address: str) -> None:
    until = time.monotonic() + _START
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RecoptError("The server of the user interface did not start: ui.log in the runs folder says why.")


def _show(link: str, say: Callable[[str], None], browser: bool) -> None:
    say(link)
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if browser and screen and "SSH_CONNECTION" not in os.environ and sys.stdout.isatty():
        webbrowser.open(link)


@contextmanager
def _like_ctrl_c() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt: the server has a session of its own, and would go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signs = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {sign: signal.signal(sign, signal.default_int_handler) for sign in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sent)
            server.wait(5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
