"""The executor that does jobs as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from ..checking.errors import RecoptError, shown
from .executor import RETRIES, Executor, lost
from .jobs import Answer, Job, answer_of, answered, described

_ANSWERS_WITHIN = 5.0
"""Seconds in which a cluster has to take a connection."""
_LOCAL = "127.0.0.1"
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
_SETTINGS = {  # a user's own values take precedence
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


class Ray(Executor):
    """Does jobs as tasks of Ray, with one processor each; Ray tries a task again whose worker or machine died.

    Raises:
        RecoptError: if Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, workers: int | None, threads: int, address: str | None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RecoptError("The executor 'ray' needs the package 'ray': pip install 'recopt[ray]'.")
        self._ray = _joined(address, workers)
        super().__init__(workers or max(1, int(self._ray.cluster_resources().get("CPU", 1))), threads)
        self._do = self._ray.remote(max_retries=RETRIES, num_cpus=1)(answered)
        self._waiting, self._running = deque[tuple[int, str]](), dict[Any, int]()

    def submit(self, number: int, job: Job) -> None:
        """Take a job, and hand it to Ray if less than ``workers`` are being done."""
        self._waiting.append((number, described(job, self.threads)))
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            number, text = self._waiting.popleft()
            self._running[self._do.remote(text)] = number

    def next(self) -> Answer:
        """Wait for the next answer."""
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        number = self._running.pop(done)
        self._hand_out()
        try:
            return answer_of(number, self._ray.get(done), 1)
        except self._ray.exceptions.RayError as why:
            return Answer(number, {}, lost("died", str(why), RETRIES + 1), RETRIES + 1)

    def close(self) -> None:
        """Cancel what is being done, and leave Ray, which ends if it was started here."""
        for task in self._running:
            with suppress(Exception):
                self._ray.cancel(task, force=True)
        self._ray.shutdown()


def _joined(address: str | None, workers: int | None) -> Any:
    """Ray, started on this machine for it alone, or joined to the cluster at ``address``."""
    where = _reached(address) if address else _LOCAL
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if where in (_LOCAL, "localhost"):
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    more: dict[str, Any] = {"address": address}
    if address is None:
        more = {"address": "local", "num_cpus": workers, "include_dashboard": False, "_node_ip_address": _LOCAL}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **more)
    except Exception as why:
        text = " ".join(str(why).split())[:200] or type(why).__name__
        place = f"at '{shown(address)}'" if address else "on this machine"
        raise RecoptError(f"Ray cannot be used {place} ({text}): start a cluster with 'ray start --head'.") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process
    return ray


def _reached(address: str) -> str:
    """The host of ``address``, which takes connections. Raises RecoptError if it does not, within seconds."""
    if address == "auto":
        return ""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise RecoptError(
            f"'{shown(address)}' should be the address of a Ray cluster: HOST:PORT, ray://HOST:PORT, or auto."
        )
    host = found["host"].strip("[]")
    try:
        socket.create_connection((host, int(found["port"])), _ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as why:
        text = getattr(why, "strerror", None) or why
        raise RecoptError(
            f"There is no Ray cluster at '{shown(address)}' ({text}): start one with 'ray start --head', or leave "
            "the address out."
        ) from None
    return host
