"""MLflow's own user interface, started on a store and opened at a page with the columns that runs are compared by."""

from __future__ import annotations

import errno
import json
import math
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...checking.errors import RecoptError
from .address import shown, web_address
from .children import PARENT
from .runs import RunRow, find_run, list_runs
from .spool import Unreachable, send_left
from .store import RUNS, Store, open_store

PORTS = range(5000, 5020)
_TRAINING = "workflowType=machine_learning"  # else MLflow opens its pages of language models
_VIEW = "recopt"
_ORDER = ("score", "score_low", "score_high", "difference_mean", "p_holm", "diverged", "evaluations")
"""What contenders are compared by."""
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
    with suppress(KeyboardInterrupt):
        server = _serve(opened, host, number)
        try:
            _await(server, address)
            _show(f"{address}/{page}", say, browser)
            say("Ctrl-C ends it.")
            threading.Thread(target=_send, args=(opened,), daemon=True).start()
            if server.wait():
                raise RecoptError(f"The server of the user interface ended with status {server.returncode}.")
        finally:
            _stop(server)


def _send(store: Store) -> None:
    """Send what earlier runs have left, while the pages are looked at."""
    with suppress(Unreachable):
        send_left(store.spools, store.take, math.inf)


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


def page_of(store: Store, given: str | None, run: str | None, root: Path) -> str:
    """The part of a link after the server's address: the list of runs, the charts of ``run``, or those nested in it.

    MLflow's own front page shows no runs, and its list none of their figures. The columns are those of a view, which
    MLflow keeps as a tag of the experiment.

    Args:
        given: the store as it was named.
        run: the id or name of a run, or of a comparison or sweep, whose contenders or trials are shown best first; None
            for all runs.

    Raises:
        RecoptError: if there is no such run, or none at all.
    """
    if run is None:
        latest = list_runs(given, 100, root)
        if not latest:
            raise RecoptError(f"There are no runs yet in {shown(store.address)}: start one with 'recopt run'.")
        experiment = latest[0].experiment
        key, view = _VIEW, _runs([row for row in latest if row.experiment == experiment])
    else:
        found = find_run(given, run, root)
        kind = found.tags.get("recopt.kind")
        if kind not in ("comparison", "ablation", "sweep"):
            return f"#/experiments/{found.experiment}/runs/{found.id}/model-metrics?{_TRAINING}"
        experiment, key = found.experiment, f"{_VIEW}-{found.id[:8]}"
        view = _trials(found) if kind == "sweep" else _view(
            f"tags.`recopt.root` = '{found.id}' AND tags.`recopt.level` != '0'", _ORDER, "score", ["params.`kind`"]
        )  # fmt: skip
    with suppress(Exception):  # a store that may only be read: then MLflow's own columns are shown
        store.client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", json.dumps(view))
    return f"#/experiments/{experiment}/runs?{_TRAINING}&viewStateShareKey={key}"


def _runs(rows: Sequence[RunRow]) -> dict[str, Any]:
    """The view of all runs, without those of their levels, best first."""
    keys = {key for row in rows for key in row.metrics}
    tests = sorted(key for key in keys if key.startswith("test_") and key != "test_loss")
    wanted = ("final_loss", "test_loss", *tests, "reference_score", "best_other_score", "evaluations", "seconds")
    best = next((key for key in ("test_loss", "reference_score") if key in keys), None)
    return _view("tags.`recopt.level` = '0'", [key for key in wanted if key in keys], best, ["params.`seed`"])


def _trials(sweep: RunRow) -> dict[str, Any]:
    """The view of a sweep's trials, best first."""
    over = [key.removeprefix("over.") for key in sweep.params if key.startswith("over.") and key != "over.stack"]
    tests = sorted(key for key in sweep.metrics if key.startswith("test_"))
    view = _view(f"tags.`{PARENT}` = '{sweep.id}'", ["score", *tests], "score", [f"params.`{key}`" for key in over])
    return {**view, "orderByAsc": sweep.tags.get("recopt.best") != "greatest"}


def _view(condition: str, metrics: Sequence[str], best: str | None, more: Sequence[str]) -> dict[str, Any]:
    figures = [f"metrics.`{key}`" for key in metrics]
    columns = ["params.`stack`", *figures, *more]
    return {
        "searchFilter": condition, "startTime": "ALL", "lifecycleFilter": "Active",
        "orderByKey": f"metrics.`{best}`" if best else "attributes.start_time", "orderByAsc": best is not None,
        "selectedColumns": columns, "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": 300, "params.`stack`": 250, **dict.fromkeys(figures, 120)},
    }  # fmt: skip
