"""A worker process: takes jobs as lines of JSON from standard input, and writes their answers to standard output."""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import sys
import threading

from .jobs import answered


def main() -> None:
    """Answer jobs until standard input is closed; then end at once, also in the middle of a job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that asked
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a plugin prints is no answer
    jobs = queue.SimpleQueue[bytes]()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        print(answered(jobs.get()), file=answers, flush=True)


def _listen(jobs: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        jobs.put(line)
    if os.getpgid(0) == os.getpid():  # with all that a job has started
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
