"""The executor that does jobs in processes on this machine."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO

from ..checking.processes import command
from .executor import RETRIES, THREADS, Executor, lost
from .jobs import Answer, Job, answer_of, described

_TOLD = 4000
"""Characters of a dead worker's last words."""


@dataclass(frozen=True)
class _Task:
    """A described job, and how often it was tried."""

    number: int
    text: str
    tries: int = 0


class _Worker:
    """A worker process, with the task that it has and what it has said of the answer."""

    def __init__(self) -> None:
        self.task: _Task | None = None
        self._said = b""
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self.process = subprocess.Popen(
            command("recopt.search.worker"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self.output = self.process.stdin, self.process.stdout
        os.set_blocking(self.output.fileno(), False)

    def take(self, task: _Task) -> None:
        self.task = task
        with suppress(BrokenPipeError):  # it is found dead when it is read
            self._input.write(task.text.encode() + b"\n")
            self._input.flush()

    def read(self) -> Answer | None:
        """The answer, if it has come. Raises EOFError if the worker is dead."""
        part = self.output.read()
        if part == b"":
            raise EOFError
        self._said += part or b""
        if self.task is None or not self._said.endswith(b"\n"):
            return None
        found = answer_of(self.task.number, self._said, self.task.tries)
        self.task, self._said = None, b""
        return found

    def close(self, wait: float = 0.0) -> tuple[str, str]:
        """End it, after a ``wait`` for one that is dying; returns how it had ended before, and its last words."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(wait)
        code = self.process.poll()
        with suppress(ProcessLookupError, PermissionError):  # with all that it has started
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self._input.close()
        self.output.close()
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - _TOLD))
        told = self._words.read().decode(errors="replace")
        self._words.close()
        return _ended(code), told


def _ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with status {code or 0}"
    names = {int(sign): sign.name for sign in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"


class Processes(Executor):
    """Does jobs in fresh processes on this machine.

    A worker that dies is replaced, and its job tried again, ``RETRIES`` times.
    """

    def __init__(self, workers: int, threads: int = THREADS) -> None:
        super().__init__(workers, threads)
        self._waiting, self._idle, self._answers = deque[_Task](), list[_Worker](), deque[Answer]()
        self._selector, self._workers = selectors.DefaultSelector(), list[_Worker]()

    def submit(self, number: int, job: Job) -> None:
        """Take a job, and hand it to a worker if one is free."""
        self._waiting.append(_Task(number, described(job, self.threads)))
        self._hand_out()

    def next(self) -> Answer:
        """Wait for the next answer."""
        while not self._answers:
            for key, _ in self._selector.select():
                self._hear(key.data)
            self._hand_out()
        return self._answers.popleft()

    def _hand_out(self) -> None:
        while self._waiting and (self._idle or len(self._workers) < self.workers):
            worker = self._idle.pop() if self._idle else self._start()
            task = self._waiting.popleft()
            worker.take(replace(task, tries=task.tries + 1))

    def _start(self) -> _Worker:
        worker = _Worker()
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            if found := worker.read():
                self._answers.append(found)
                self._idle.append(worker)
        except EOFError:
            self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Remove a dead worker; its job is tried again, or given up."""
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        how, told = worker.close(wait=5.0)
        if worker in self._idle:
            self._idle.remove(worker)
        if (task := worker.task) is None:
            return
        if task.tries <= RETRIES:
            self._waiting.appendleft(task)
        else:
            self._answers.append(Answer(task.number, {}, lost(how, told, task.tries), task.tries))

    def close(self) -> None:
        """End all workers, also in the middle of a job."""
        while self._workers:
            self._workers.pop().close()
        self._selector.close()
