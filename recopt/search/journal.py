"""The journal of answers: a line of JSON for each, from which work that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ..checking.errors import RecoptError, writing
from .executor import Executor
from .jobs import Answer, Failure, Job, described

K = TypeVar("K", bound="str | tuple[int, ...]")


class Entry(NamedTuple):
    """An answer to a job: what it ``found``, or its ``failure``, after so many ``tries``; ``about`` says of what."""

    about: Mapping[str, Any]
    found: Mapping[str, Any]
    failure: Failure | None = None
    tries: int = 1


class Journal(Generic[K]):
    """Answers by their key, each written to ``file`` as it comes; None keeps them in memory.

    Args:
        read: the key from its JSON.

    Raises:
        RecoptError: if the file cannot be read or written.
    """

    def __init__(self, file: Path | None, read: Callable[[Any], K]) -> None:
        self._file, self.entries = file, dict[K, Entry]()
        if file is not None and file.is_file():
            self._read(file, read)

    def _read(self, file: Path, read: Callable[[Any], K]) -> None:
        whole = file.read_bytes()
        lines = whole[: whole.rfind(b"\n") + 1]  # a kill may have cut the last one short
        try:
            for line in lines.splitlines():
                told = json.loads(line)
                failure = Failure(*told["failure"]) if told["failure"] else None
                self.entries[read(told["key"])] = Entry(told["about"], told["found"], failure, told["tries"])
        except (ValueError, KeyError, TypeError) as why:
            raise RecoptError(f"{file} is not as it was written ({why}): begin anew.") from None
        if lines != whole:
            with writing(file):
                file.write_bytes(lines)

    def add(self, key: K, entry: Entry) -> None:
        """Write an answer; it is on the disk when this returns."""
        self.entries[key] = entry
        if self._file is not None:
            line = json.dumps({"key": key, **entry._asdict()}) + "\n"
            with writing(self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())


class Journaled(Executor):
    """Does jobs by another executor, and keeps their answers: a job that ``journal`` has an answer to is not done.

    A job is known by its description, in which all is that its answer follows from; failures are not kept.
    """

    def __init__(self, executor: Executor, journal: Journal[str]) -> None:
        super().__init__(executor.workers, executor.threads)
        self._executor, self._journal = executor, journal
        self._known, self._keys = deque[Answer](), dict[int, str]()

    def submit(self, number: int, job: Job) -> None:
        """Take a job, and hand it on if it was not done before."""
        told = json.loads(described(job, self.threads))
        del told["folder"]  # files are found in it, and the job is of what is in them
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        if entry := self._journal.entries.get(key):
            self._known.append(Answer(number, dict(entry.found), None, entry.tries))
            return
        self._keys[number] = key
        self._executor.submit(number, job)

    def next(self) -> Answer:
        """Wait for the next answer; those that are known come first."""
        if self._known:
            return self._known.popleft()
        answer = self._executor.next()
        key = self._keys.pop(answer.number)
        if answer.failure is None:
            self._journal.add(key, Entry({}, answer.found, None, answer.tries))
        return answer

    def close(self) -> None:
        """End all workers."""
        self._executor.close()
