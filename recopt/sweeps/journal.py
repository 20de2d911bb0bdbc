"""The journal of a sweep: a line of JSON for each answer, from which a sweep that was killed goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..checking.errors import RecoptError, writing
from ..search.jobs import Failure

JOURNAL = "trials.jsonl"


class Key(NamedTuple):
    """One run of a trial, up to a rung."""

    trial: int
    rung: int
    repeat: int


class Entry(NamedTuple):
    """The answer to a run of a trial: what it ``found``, or its ``failure``, after so many ``tries``."""

    settings: Mapping[str, Any]
    found: Mapping[str, Any]
    failure: Failure | None
    tries: int


class Journal:
    """Answers by their key, each written to ``file`` as it comes; None keeps them in memory.

    Raises:
        RecoptError: if the file cannot be read or written.
    """

    def __init__(self, file: Path | None) -> None:
        self._file, self.entries = file, dict[Key, Entry]()
        if file is not None and file.is_file():
            self._read(file)

    def _read(self, file: Path) -> None:
        whole = file.read_bytes()
        lines = whole[: whole.rfind(b"\n") + 1]  # a kill may have cut the last one short
        try:
            for line in lines.splitlines():
                told = json.loads(line)
                failure = Failure(*told["failure"]) if told["failure"] else None
                self.entries[Key(*told["key"])] = Entry(told["settings"], told["found"], failure, told["tries"])
        except (ValueError, KeyError, TypeError) as why:
            raise RecoptError(f"{file} is not as it was written ({why}): start the sweep anew.") from None
        if lines != whole:
            with writing(file):
                file.write_bytes(lines)

    def add(self, key: Key, entry: Entry) -> None:
        """Write an answer; it is on the disk when this returns."""
        self.entries[key] = entry
        if self._file is not None:
            line = json.dumps({"key": key, **entry._asdict()}) + "\n"
            with writing(self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
