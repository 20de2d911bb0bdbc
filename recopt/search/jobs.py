"""Jobs: pieces of work that can be done in any process, in any order, with the same answers.

A job is described in JSON, and so is its answer; nothing is pickled. All that it computes follows from its description:
seeds are part of it, and so is the number of torch's threads, by which sums are rounded.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, Protocol, Self

from ..checking.errors import RecoptError
from ..public import __version__


class Job(Protocol):
    """A piece of work."""

    def words(self) -> dict[str, Any]:
        """Its description, as JSON. Raises RecoptError for what cannot be described."""

    @classmethod
    def read(cls, words: Mapping[str, Any]) -> Self:
        """The job that ``words`` describes."""

    def run(self) -> dict[str, Any]:
        """Do it; returns JSON, in which numbers may be infinite or NaN."""


class Failure(NamedTuple):
    """The reason why a job has no answer.

    Attributes:
        kind: the class of a RecoptError by name, ``FAILED`` for any other, or ``LOST`` if the worker died each time.
        message: one sentence.
        traceback: the whole traceback, or the last that a dead worker printed.
    """

    kind: str
    message: str
    traceback: str


FAILED, LOST = "RunFailed", "WorkerLost"


class Answer(NamedTuple):
    """The answer to job ``number``: what it ``found``, or its ``failure``, at the last of ``tries``."""

    number: int
    found: dict[str, Any]
    failure: Failure | None = None
    tries: int = 1


class RemoteTraceback(Exception):
    """The traceback of an error in another process, as text, to be the cause of the error that is raised here."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads for the time of the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attempt(job: Job, threads: int) -> dict[str, Any]:
    """Do ``job``: a mapping with what it ``found``, or its ``failure``."""
    try:
        with torch_threads(threads):
            found: dict[str, Any] = json.loads(json.dumps(job.run()))
            return {"found": found}
    except (Exception, SystemExit) as why:
        text = " ".join(str(why).split())
        told = text if isinstance(why, RecoptError) else f"{type(why).__name__}{': ' if text else ''}{text[:300]}"
        kind = type(why).__name__ if isinstance(why, RecoptError) else FAILED
        return {"failure": Failure(kind, told, traceback.format_exc())}


def described(job: Job, threads: int) -> str:
    """``job`` as one line of JSON, which :func:`answered` answers. Raises RecoptError if it cannot be described."""
    kind = f"{type(job).__module__}:{type(job).__qualname__}"
    return json.dumps(
        {"recopt": __version__, "job": kind, "words": job.words(), "threads": threads, "folder": os.getcwd()}
    )


def answered(text: str | bytes) -> str:
    """The answer to a described job, as one line of JSON."""
    told = json.loads(text)
    if told["recopt"] != __version__:
        why = f"This worker has recopt {__version__}, and the jobs are of {told['recopt']}: install the same on all."
        return json.dumps({"failure": Failure("RecoptError", why, "")})
    if os.path.isdir(told["folder"]):  # not on another machine
        os.chdir(told["folder"])
    module, _, name = told["job"].partition(":")
    return json.dumps(attempt(getattr(import_module(module), name).read(told["words"]), told["threads"]))


def answer_of(number: int, text: str | bytes, tries: int) -> Answer:
    """The answer in a line of JSON."""
    told = json.loads(text)
    return Answer(number, told.get("found", {}), Failure(*told["failure"]) if "failure" in told else None, tries)
