"""The address of a store: its full form, and checks before MLflow opens it.

MLflow retries a database file that cannot be opened for a hundred seconds, and would put its tables
into any other program's database. So files are checked first.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from ...contracts.errors import RecoptError

_REMEDY = "give sqlite:///FILE.db or http://HOST:PORT, or no store (nor MLFLOW_TRACKING_URI) to record below runs/"
_PATIENCE = 10.0  # seconds to wait for another program that writes
_SERVERS = ("http", "https", "postgresql", "mysql", "mssql")


class Locked(RecoptError):
    """A store that another program has locked: for good, or while it makes the tables."""


def resolve_store(store: str | None, root: Path) -> str:
    """The full address of ``store``, paths absolute; None: that in MLFLOW_TRACKING_URI, or ``mlflow.db`` in ``root``.

    Raises:
        RecoptError: for an address of a kind that runs cannot be recorded in.
    """
    store = store or os.environ.get("MLFLOW_TRACKING_URI") or None
    if store is None:
        return f"sqlite:///{(root / 'mlflow.db').absolute()}"
    scheme, colon, _ = store.partition(":")
    if scheme == "sqlite":
        return f"sqlite:///{_sqlite_file(store).absolute()}"
    if not colon or scheme == "file" or len(scheme) == 1:
        raise RecoptError(f"The store '{store}' is a folder, which MLflow no longer records to: {_REMEDY}.")
    if scheme.partition("+")[0] not in _SERVERS:
        raise RecoptError(f"The store '{store}' is of an unknown kind '{scheme}': {_REMEDY}.")
    return store.rstrip("/") if scheme.startswith("http") else store


def shown(uri: str) -> str:
    """``uri`` for messages: without a password, and a file in this folder without the folder."""
    uri = re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:…@", uri)
    return uri.replace(f"sqlite:///{Path.cwd()}/", "sqlite:///")


def local_file(uri: str) -> Path | None:
    """The database file of a SQLite store; None for a server."""
    return _sqlite_file(uri) if uri.startswith("sqlite:") else None


def check_sqlite(path: Path, create: bool) -> None:
    """Check that ``path`` is, or (``create``) can become, an MLflow database that we may write.

    Raises:
        RecoptError: otherwise, in one sentence, within seconds; ``Locked`` if another try may succeed.
    """
    if path.exists():
        _check_head(path)
    elif create:
        _make_folder(path)
    else:
        raise RecoptError(f"There are no runs yet: no store at {path}. Start one, or give --store.")
    tables = _tables(path, create)
    if tables and not {"experiments", "alembic_version"} & tables:
        raise RecoptError(f"The store {path} is the database of another program: {_REMEDY}.")
    if not tables and not create:  # MLflow would make them
        raise RecoptError(f"There are no runs yet: the store {path} is empty. Start one, or give --store.")


def _check_head(path: Path) -> None:
    if path.is_dir():
        raise RecoptError(f"The store {path} is a folder: give a file in it, sqlite:///{path}/mlflow.db.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as why:
        raise RecoptError(f"The store {path} cannot be read ({why.strerror}): {_REMEDY}.") from None
    if head and head != b"SQLite format 3\0":
        raise RecoptError(f"The store {path} is not a database: {_REMEDY}.")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK | os.X_OK)
    except OSError as why:
        raise RecoptError(f"The folder {path.parent} cannot be made ({why.strerror}): {_REMEDY}.") from None
    if not writable:
        raise RecoptError(f"The folder {path.parent} cannot be written to: {_REMEDY}.")


def _tables(path: Path, write: bool) -> set[str]:
    """The names of the tables at ``path``, an empty database if it was not there. With ``write``, try to write too."""
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as base:
            tables = {str(row[0]) for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if write:
                base.execute("BEGIN IMMEDIATE")
                # Only a write, even of the same value, shows whether writing is allowed.
                (version,) = base.execute("PRAGMA user_version").fetchone()
                base.execute(f"PRAGMA user_version = {version}")
                base.execute("ROLLBACK")
    except sqlite3.Error as why:
        kind = Locked if "is locked" in str(why) else RecoptError
        raise kind(f"The store {path} cannot be opened ({in_words(str(why))}): {_REMEDY}.") from None
    return tables


_WORDS = {
    "refused": "it refused the connection", "timed out": "it did not answer in time",
    "NameResolution": "its name is not known", "is locked": "another program has it locked",
    "disk is full": "the disk is full", "readonly database": "it may not be written to",
    "unable to open database": "it, or its folder, is not there or may not be written to",
}  # fmt: skip
"""The cause of an error in plain words, by a text that the error contains."""


def in_words(text: str) -> str:
    """The cause of an error in a few words, from the ``text`` of a store's error."""
    return next((words for sign, words in _WORDS.items() if sign in text), text[:160])


def _sqlite_file(uri: str) -> Path:
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(\?.*)?", uri)
    if found is None or found[1] == ":memory:":
        raise RecoptError(f"The store '{uri}' names no file: give sqlite:///FILE.db.")
    return Path(found[1])
