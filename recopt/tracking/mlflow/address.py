"""The address of a store: its full form, what of it may be shown, and checks before MLflow opens it.

MLflow retries a database that cannot be opened for a hundred seconds, and would put its tables into any other
program's database. So files and servers are checked first.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from ...checking.errors import RecoptError

_REMEDY = "give sqlite:///FILE.db or http://HOST:PORT, or no store (nor MLFLOW_TRACKING_URI) to record below runs/"
_PATIENCE = 10.0  # seconds to wait for another program that writes
_ANSWER = 5.0  # seconds to wait for a database server to accept a connection
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN")
_SHORTEST = 3  # letters of a secret that is looked for in a text: shorter ones are part of many words


class Unopened(RecoptError):
    """A store that cannot be opened: a ``sentence``, and the ``reason`` in it, in a few words."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Locked(Unopened):
    """A store that another program has locked: for good, or while it makes the tables."""


def resolve_store(store: str | None, root: Path) -> str:
    """The full address of ``store``, paths absolute; None: that in MLFLOW_TRACKING_URI, or ``mlflow.db`` in ``root``.

    The path of a database (``.db``, ``.sqlite``, ``.sqlite3``) stands for its address.

    Raises:
        RecoptError: for an address of a kind that runs cannot be recorded in.
    """
    store = store or os.environ.get("MLFLOW_TRACKING_URI") or None
    if store is None:
        return _sqlite_address((root / "mlflow.db").absolute())
    scheme, colon, _ = store.partition(":")
    kind = scheme.partition("+")[0]
    if scheme in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_address(_sqlite_file(store).absolute())
    if not colon and Path(store).suffix in (".db", ".sqlite", ".sqlite3"):
        return _sqlite_address(Path(store).absolute())
    if not colon or scheme == "file" or len(scheme) == 1:
        raise RecoptError(f"The store '{shown(store)}' is a folder, which MLflow no longer records to: {_REMEDY}.")
    if kind not in _PORTS and scheme not in ("http", "https"):
        raise RecoptError(f"The store '{shown(store)}' is of an unknown kind '{scheme}': {_REMEDY}.")
    return store.rstrip("/") if scheme.startswith("http") else store


def address_of(store: str | Path | None) -> str | None:
    """``store`` as an address: a path is a database file, or a folder with ``mlflow.db`` in it.

    Raises:
        RecoptError: if it is neither text nor a path.
    """
    if not isinstance(store, str | Path | None):
        raise RecoptError(f"store={store!r} must be an address or a path: {_REMEDY}.")
    if not isinstance(store, Path):
        return store
    return _sqlite_address((store if store.suffix else store / "mlflow.db").absolute())


def shown(address: str) -> str:
    """``address`` for messages: without user, password and options, and a file in this folder without the folder."""
    if (file := local_file(address)) and file.is_relative_to(Path.cwd()):
        return _sqlite_address(file.relative_to(Path.cwd()))
    return masked(address, address)


def masked(text: str, address: str = "") -> str:
    """``text`` without the secrets of ``address``, of any other address in it, and of MLflow's environment variables.

    An address keeps its scheme, host and path. User, password and options become ``…``; so does all of an address
    that can be read in two ways, as where a password may hold an ``@`` or a ``?``.
    """
    secrets = {os.environ.get(name, "") for name in _SECRETS} | (_parts(address).secrets if address else set())
    secrets = {
        secret for secret in {*secrets, *map(unquote, secrets), *map(quote, secrets)} if len(secret) >= _SHORTEST
    }

    def rest(text: str) -> str:
        text = re.sub(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+", lambda found: _parts(found[0]).shown, text)
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    return _parts(address).shown.join(map(rest, text.split(address))) if address else rest(text)


class _Parts(NamedTuple):
    """The parts of an address: ``scheme://user@place?options``."""

    scheme: str
    user: str
    place: str
    options: str

    @property
    def shown(self) -> str:
        user, options = self.user and "…@", self.options and re.sub("(?<=^[?;#]).*|^[^?;#].*", "…", self.options)
        return f"{self.scheme}{user}{self.place}{options}"

    @property
    def secrets(self) -> set[str]:
        """Every text that may be a secret, whole and in the pieces that a driver may show."""
        name, colon, password = self.user.partition(":")
        whole = {password if colon else name, self.options, *re.split("[?&;#=]", self.options)}
        return whole.union(*(re.split("[^\\w-]", text) for text in whole))


def _parts(address: str) -> _Parts:
    before, mark, rest = address.partition("://")
    scheme, rest = (before + mark, rest) if mark else ("", address)
    if scheme.startswith("databricks"):  # its host may be a token
        return _Parts(scheme, "", "", rest)
    file = scheme.startswith("sqlite") and rest.startswith("/")  # no host, so no user
    user, _, place = ("", "", rest) if file else rest.rpartition("@")
    if re.search("[?;#]", user):
        return _Parts(scheme, "", "", rest)
    cut = re.search("[?]" if file else "[?;#]", place)
    at = cut.start() if cut else len(place)
    return _Parts(scheme, user, place[:at], place[at:])


def identity(address: str) -> str:
    """The part of ``address`` that tells two stores apart, whoever uses them."""
    parts = _parts(address)
    return f"{parts.scheme}{parts.place}{parts.options}"


def web_address(address: str) -> str:
    """The part of ``address`` that leads a browser to a server: without user, password and options."""
    parts = _parts(address)
    return f"{parts.scheme}{parts.place}"


def local_file(address: str) -> Path | None:
    """The database file of a SQLite store; None for a server."""
    return _sqlite_file(address) if re.match(r"sqlite(\+pysqlite)?:///[^?]+$", address) else None


def _sqlite_address(path: Path) -> str:
    from sqlalchemy import URL  # here, as below: not needed for a server

    address: str = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    # MLflow makes the folder that it reads off "sqlite:///…", and takes quoted letters for those of a name.
    return address if address == f"sqlite:///{path}" else address.replace("sqlite", "sqlite+pysqlite", 1)


def _sqlite_file(address: str) -> Path:
    from sqlalchemy import make_url

    url = make_url(address)
    if "?" in address:
        raise RecoptError(f"The store '{masked(address)}' has options, which a file has not: write %3F for a '?'.")
    if not url.database or url.database == ":memory:" or url.host:
        raise RecoptError(f"The store '{masked(address)}' names no file: give sqlite:///FILE.db.")
    return Path(url.database)


def check_server(address: str) -> None:
    """Check that the database server at ``address`` lets us in, since MLflow tries again for two minutes.

    Raises:
        OSError: if it does not accept a connection; ModuleNotFoundError if its driver is not installed.
        sqlalchemy.exc.SQLAlchemyError: if it refuses.
    """
    from sqlalchemy import create_engine, make_url

    url = make_url(address)
    if url.host:
        socket.create_connection((url.host, url.port or _PORTS[url.get_backend_name()]), _ANSWER).close()
    engine = create_engine(url)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


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
        kind, reason = Locked if "is locked" in str(why) else Unopened, in_words(why)
        raise kind(f"The store {path} cannot be opened ({reason}): {_REMEDY}.", reason) from None
    return tables


_WORDS = {
    "Connection refused": "it refused the connection", "timed out": "it did not answer in time",
    "NameResolution": "its name is not known", "is locked": "another program has it locked",
    "disk is full": "the disk is full", "readonly database": "it may not be written to",
    "unable to open database": "it, or its folder, is not there or may not be written to",
}  # fmt: skip
"""The cause of an error in plain words, by a text that the error contains."""


def in_words(why: Exception, address: str = "") -> str:
    """The cause of a store's error in a few words, without the secrets of the store's ``address``."""
    text = masked(" ".join(str(getattr(why, "message", why)).split()), address)
    return next((words for sign, words in _WORDS.items() if sign in text), text[:160])


def unopened(address: str, why: Exception) -> Unopened:
    """The refusal of a store that could not be opened because of ``why``."""
    name, reason = shown(address), in_words(why, address)
    if address.startswith("http"):
        sentence = f"The tracking server {name} does not answer ({reason}): start it, or name no store."
    elif isinstance(why, ModuleNotFoundError):
        sentence = f"The store {name} needs the package '{why.name}': install it."
    elif "out-of-date database schema" in str(why):
        sentence = f"The store {name} has an out-of-date schema: back it up and run 'mlflow db upgrade {name}'."
    else:
        sentence = f"The store {name} cannot be opened ({reason}): mend it, or give another."
    return Unopened(sentence, reason)
