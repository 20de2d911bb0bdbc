"""Passwords and tokens in stores' addresses: in no process's arguments, no message, no log, no file."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from recopt.checking.errors import RecoptError
from recopt.cli.options import store_words
from recopt.tracking.mlflow.address import masked, shown, unopened, web_address
from recopt.tracking.mlflow.outbox import Outbox
from recopt.tracking.mlflow.sender import Sender
from recopt.tracking.mlflow.spool import Unreachable, spool_folder
from recopt.tracking.mlflow.store import Store, open_store
from recopt.tracking.mlflow.ui import _serve, _stop

SCHEMES = ["postgres", "postgresql+psycopg2", "mysql", "mssql+pyodbc", "http", "https", "databricks",
           "sqlite+pysqlcipher", "sqlite", "", "postgresql:"]  # fmt: skip
SECRETS = [
    "s3cr3t",
    "s3c/r3t",
    "s3c@r3t",
    "s3c?r3t",
    "s3c#r3t",
    "s3c:r3t",
    "s3c r3t",
    "s3c;r3t",
    "s3c%40r3t",
    "s3c'r3t",
]
SHAPES = ["user:{}@host:5/db", "{}@host/db", ":{}@host/db", "user:{}@/db", "user:{}@host/db?sslmode=on",
          "host/db?password={}", "host/db?user=u&token={}&x=1", "host/db?odbc_connect=UID=u;PWD={}", "host/#token={}",
          "host;password={}"]  # fmt: skip


def addresses() -> list[tuple[str, str]]:
    made = []
    for scheme, secret, shape in itertools.product(SCHEMES, SECRETS, SHAPES):
        mark = "" if scheme in ("", "postgresql:") else "://"
        named = ":" in secret and shape.startswith("{}")  # then what comes before the colon is the user's name
        if (mark or "@" in shape) and not named:
            made.append((f"{scheme}{mark}{shape.format(secret)}", secret))
    return made


def hidden(text: str, secret: str) -> bool:
    """True if ``text`` holds neither the secret nor a piece of three letters or more of it."""
    return not any(piece in text for piece in (secret, "s3c", "r3t"))


def test_no_form_of_address_shows_its_secret() -> None:
    made = addresses()
    assert len(made) > 800
    for address, secret in made:
        assert hidden(shown(address), secret), (address, shown(address))
        told = (
            f"(OperationalError) could not connect to '{address}': no host {secret!r}; tried {secret}, {quote(secret)}"
        )
        assert hidden(masked(told, address), secret), (address, masked(told, address))
        refusal = unopened(address, RuntimeError(told))
        assert hidden(f"{refusal} {refusal.reason}", secret), (address, str(refusal))
        assert "\n" not in str(refusal)
        if address.startswith("http"):
            assert hidden(web_address(address), secret), (address, web_address(address))


def test_a_text_hides_the_secrets_of_addresses_that_nobody_named() -> None:
    for address, secret in addresses():
        if "://" in address and not set(secret) & set(" '"):
            assert hidden(masked(f"cannot open {address}\nfor the reason"), secret), address


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"])
def test_what_mlflow_is_told_by_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "s3cr3t")
    assert masked("Authorization: Bearer s3cr3t") == "Authorization: Bearer …"


def test_commands_that_are_printed_to_go_on_hide_the_secret() -> None:
    for address, secret in addresses():
        assert hidden(store_words(address), secret), address
    assert store_words("sqlite:///my runs.db") == " --store 'sqlite:///my runs.db'"
    assert store_words(None) == ""


def test_addresses_without_secrets_are_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for address in ("http://host:5000", "postgresql://host/db", "mysql+pymysql://host:3306/db", "sqlite:////a_b/c.db"):
        assert shown(address) == address
    assert shown(f"sqlite:///{tmp_path}/runs/mlflow.db") == "sqlite:///runs/mlflow.db"
    assert shown("mysql://user:pass@host/db") == "mysql://…@host/db"
    assert masked("see https://host/page, and wait.") == "see https://host/page, and wait."


@pytest.mark.parametrize("address", ["databricks://s3cr3t", "user:s3cr3t@host/folder", "ftp://user:s3cr3t@host",
                                     "sqlite:///x.db?password=s3cr3t", "mysql+none://user:s3cr3t@127.0.0.1:9/db",
                                     "http://user:s3cr3t@127.0.0.1:9"])  # fmt: skip
def test_a_refusal_hides_the_secret(tmp_path: Path, address: str) -> None:
    with pytest.raises(RecoptError) as refusal:
        open_store(address, tmp_path, create=True)
    assert hidden(str(refusal.value), "s3cr3t")
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__  # MLflow's own words are not shown


def test_a_password_that_changes_changes_no_spool_and_another_database_does(tmp_path: Path) -> None:
    first = spool_folder(tmp_path, "mysql://user:one@host/db")
    assert first == spool_folder(tmp_path, "mysql://user:two@host/db")
    assert first != spool_folder(tmp_path, "mysql://user:one@host/other")
    assert first != spool_folder(tmp_path, "mysql://user:one@host/db?schema=other")


def test_what_a_run_says_of_a_store_that_is_away_hides_the_secret(tmp_path: Path) -> None:
    told: list[str] = []
    outbox = Outbox(Store("http://user:s3cr3t@host", tmp_path, None), tmp_path / "a.jsonl", told.append)
    outbox.keep({"run": "r", "points": []})

    def away(message: object) -> None:
        raise Unreachable("no route to host")

    outbox._store.take = away  # type: ignore[method-assign]
    outbox.finish()
    assert len(told) == 1
    assert told[0].startswith("The store http://…@host does not answer (no route to host): the run goes on")


def planted(folder: Path) -> Path:
    """Modules of a user in ``folder`` that say that they were executed; where they say it."""
    for name in ("mlflow", "random", "json", "recopt", "uvicorn"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'executed')!r}, 'a').write({name!r})\n")
    return folder / "executed"


def arguments(group: int) -> str:
    """The arguments of every process in the session that ``group`` leads."""
    return subprocess.run(
        ["ps", "-ww", "-o", "args=", "-g", str(group)], capture_output=True, text=True, check=True
    ).stdout


def test_the_process_that_sends_is_told_the_address_where_nobody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spool.jsonl").write_text(json.dumps({"run": "r", "points": [["loss", 1.0, 0, 0]]}) + "\n")
    sender = Sender("http://user:s3cr3t@127.0.0.1:9", tmp_path, tmp_path / "spool.jsonl")
    assert hidden(arguments(sender._process.pid), "s3cr3t")
    assert "-c" in arguments(sender._process.pid)
    assert not sender.finish()
    assert sender.troubles() == [("away", "it refused the connection")]  # one reason, and not a refusal in a refusal
    sender.close()
    assert not executed.exists()


@pytest.mark.slow
def test_the_server_of_the_pages_is_told_the_address_where_nobody_reads_it(tmp_path: Path) -> None:
    executed = planted(tmp_path)
    server = _serve(Store("postgresql://user:s3cr3t@127.0.0.1:9/db?password=s3cr3t", tmp_path, None), "127.0.0.1", 9)
    try:
        assert hidden(arguments(server.pid), "s3cr3t")
        server.wait(60)
    finally:
        _stop(server)
    log = (tmp_path / "ui.log").read_text()
    assert "mlflow" in log
    assert hidden(log, "s3cr3t")
    assert not executed.exists()


def test_a_store_named_in_the_environment_is_not_in_what_a_command_prints(tmp_path: Path) -> None:
    told = {**os.environ, "MLFLOW_TRACKING_URI": "http://user:s3cr3t@127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "recopt", "runs"], check=False, env=told, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "http://…@127.0.0.1:9 does not answer (it refused the connection)" in " ".join(done.stderr.split())
    assert hidden(done.stdout + done.stderr, "s3cr3t")
