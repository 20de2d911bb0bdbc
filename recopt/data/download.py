"""Downloads: resumable, checked against a digest, and put in their place only once they are whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..checking.errors import RecoptError

log = logging.getLogger(__name__)

TRIES = 5
"""Attempts at one address before the next address."""
PAUSE = 1.0
"""Seconds before the second try; doubled for each further one."""
_CHUNK = 1 << 20
_TIMEOUT = 30.0
# Errors of a network, as opposed to a disk: both are OSErrors.
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


@dataclass(frozen=True)
class Remote:
    """A file at any of ``urls``, with a ``digest`` written ``md5:…`` or ``sha256:…``."""

    urls: tuple[str, ...]
    digest: str


class FetchError(RecoptError):
    """A file cannot be fetched. The message says why; the caller adds the remedy."""


def fetch(remote: Remote, target: Path) -> Path:
    """Download ``remote`` to ``target`` unless it is there. Returns ``target``.

    The bytes are written to ``target`` + ``.part``, which a later call resumes (HTTP Range). It gets the
    target's name once it has the right digest. Processes that want the same file wait for one another.

    Raises:
        FetchError: if no address gives the file, if its digest is wrong, or if it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".part")) as part:
            if not target.exists():
                _fill(part, remote, target.name)
                part.flush()
                os.fsync(part.fileno())
                os.replace(part.name, target)
    except OSError as error:
        raise FetchError(f"{target} could not be written ({error.strerror or error})") from error
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """``path`` opened for appending under an exclusive lock; removed at the end if it is empty."""
    while True:
        with path.open("a+b") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            # The last holder of the lock may have renamed this file: then ``path`` is another file now.
            if not _is(path, file):
                continue
            try:
                yield file
            finally:
                file.flush()
                if _is(path, file) and not os.fstat(file.fileno()).st_size:
                    path.unlink()
            return


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _fill(part: BinaryIO, remote: Remote, name: str) -> None:
    """Complete ``part`` from the first address that has it, and check it."""
    reasons = []
    for url in remote.urls:
        resumed = part.seek(0, os.SEEK_END) > 0
        try:
            log.info("Fetching %s", url)
            _transfer(url, part)
            if resumed and _digest(part, remote.digest) != remote.digest:
                # The beginning may be of another file: try once more, from the start.
                part.truncate(0)
                _transfer(url, part)
        except FetchError as error:
            reasons.append(str(error))
            continue
        found = _digest(part, remote.digest)
        if found == remote.digest:
            return
        part.truncate(0)
        reasons.append(f"{url} gave a file with {found} instead of {remote.digest}; it was discarded")
    raise FetchError(f"{name} could not be fetched ({'; '.join(reasons)})")


def _transfer(url: str, part: BinaryIO) -> None:
    """Append the missing rest of ``url`` to ``part``, and resume a broken transfer."""
    reason: object = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            if _receive(url, part):
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < http.client.INTERNAL_SERVER_ERROR:
                raise FetchError(f"{url} answered {error.code} {error.reason}") from error
            reason = f"{error.code} {error.reason}"
        except _BROKEN as error:
            reason = getattr(error, "reason", error)
    raise FetchError(f"{url}: {reason}")


def _receive(url: str, part: BinaryIO) -> bool:
    """Request the missing rest of ``part`` once. Returns True if ``part`` is complete then."""
    have = part.seek(0, os.SEEK_END)
    headers = {"User-Agent": "recopt", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return True  # nothing is missing
            part.truncate(0)
            return False
        raise
    with answer:
        start = f"bytes {have}-"
        if have and not (
            answer.status == http.client.PARTIAL_CONTENT and answer.headers.get("Content-Range", "").startswith(start)
        ):
            part.truncate(0)  # the server sends the whole file
            have = 0
        while chunk := answer.read(_CHUNK):
            part.write(chunk)
        length = answer.headers.get("Content-Length")
    return length is None or part.seek(0, os.SEEK_END) == have + int(length)


def _digest(file: BinaryIO, like: str) -> str:
    """The digest of all of ``file`` in the notation and by the algorithm of ``like``."""
    kind = like.partition(":")[0]
    sums = hashlib.new(kind, usedforsecurity=False)
    file.seek(0)
    while chunk := file.read(_CHUNK):
        sums.update(chunk)
    return f"{kind}:{sums.hexdigest()}"
