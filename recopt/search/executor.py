"""The interface of executors, and the one that does jobs in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Self

from .jobs import LOST, Answer, Failure, Job, attempt

RETRIES = 2
"""How often a job is tried again whose worker died."""
THREADS = 1
"""The threads of torch for each job. They do not depend on the machine, since sums are rounded by them."""


class Executor(ABC):
    """Does jobs. What it answers, and for which job, depends on the job alone, and the order on the executor.

    A context manager: at its end nothing of it is left running, whatever is still to be done.

    Attributes:
        workers: jobs done at the same time.
        threads: of torch, for each job.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads

    @abstractmethod
    def submit(self, number: int, job: Job) -> None:
        """Take a job, to be answered under ``number``. Raises RecoptError if it cannot be described where it has to."""

    @abstractmethod
    def next(self) -> Answer:
        """Wait for the next answer to any job submitted."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Inline(Executor):
    """Does jobs in this process, in the order in which they come."""

    def __init__(self, threads: int = THREADS) -> None:
        super().__init__(1, threads)
        self._waiting = deque[tuple[int, Job]]()

    def submit(self, number: int, job: Job) -> None:
        """Take a job."""
        self._waiting.append((number, job))

    def close(self) -> None:
        """Forget the jobs that were not done."""
        self._waiting.clear()

    def next(self) -> Answer:
        """Do the oldest job."""
        number, job = self._waiting.popleft()
        done = attempt(job, self.threads)
        return Answer(number, done.get("found", {}), done.get("failure"))


def lost(how: str, told: str, tries: int) -> Failure:
    """The failure of a job whose workers died."""
    return Failure(LOST, f"Its worker {how}, {tries} times.", told)
