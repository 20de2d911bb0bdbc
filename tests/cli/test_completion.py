"""Shell completion, through click's protocol and in a real bash."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import sqlite3
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

import pytest

from recopt.levels.level import Level

from ..commands import Recopt, write

MAIN = "import sys; from recopt.cli import main; main()"
TOLD = "import json; json.dump([m for m in ('torch', 'mlflow', 'matplotlib') if m in sys.modules], sys.stderr)"


def offered(words: str, folder: Path, shell: str = "bash") -> list[str]:
    """What is offered for the last of ``words``, whole lines of the protocol; nothing slow may be imported for it."""
    args = shlex.split(words.replace("'", "")) if words[-1] != " " else [*shlex.split(words), ""]
    given = {"COMP_WORDS": words, "COMP_CWORD": str(len(args) - 1), "_RECOPT_COMPLETE": f"{shell}_complete"}
    code = (
        f"import atexit, sys; atexit.register(lambda: exec({TOLD!r}, globals())); from recopt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, **given}, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert json.loads(done.stderr) == []
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("recopt dif", ["diff"]),
        ("recopt run dig", ["digits"]),
        ("recopt run digits adam/hyperg", ["adam/hypergradient"]),
        ("recopt run digits adam+sgd/hyperg", ["adam+sgd/hypergradient"]),
        ("recopt run digits 'adam(lr=0.1)/anneal", ["adam(lr=0.1)/annealing"]),
        ("recopt run digits 'adam(lr=0.1,beta", ["adam(lr=0.1,beta1=", "adam(lr=0.1,beta2="]),
        ("recopt run digits random_s", ["random-search"]),
        ("recopt run digits adam/sgd/sgd --set ", ["level1.", "level2.", "level3.", "adam.", "sgd.", "sgd3."]),
        ("recopt run digits adam/sgd --set level2.ev", ["level2.every="]),
        ("recopt run digits adam/sgd --set adam.weight", ["adam.weight_decay="]),
        ("recopt compare digits adam sg", ["sgd"]),
        ("recopt compare digits --baselines sgd,rms", ["sgd,rmsprop"]),
        ("recopt show quad", ["quadratic"]),
        ("recopt run digits mi", ["mine"]),
    ],
)  # fmt: skip
def test_tab_offers_names(words: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "mine.py").write_text("raise SystemExit('a plugin that was run')\n")
    assert offered(words, tmp_path) == [f"plain,{one}" for one in found]


def test_tab_leaves_paths_to_the_shell(tmp_path: Path) -> None:
    assert offered("recopt run ./my", tmp_path) == ["file,./my"]
    assert offered("recopt run digits adam --spec r", tmp_path) == ["file,r"]


def test_tab_offers_every_setting_of_a_level(tmp_path: Path) -> None:
    found = {
        one.removeprefix("plain,level1.").rstrip("=")
        for one in offered("recopt run digits adam --set level1.", tmp_path)
    }
    assert found == Level.model_fields.keys() - {"moves", "by", "only"}


def test_tab_offers_recorded_runs_with_their_names(recopt: Recopt, tmp_path: Path) -> None:
    recopt("run", "quadratic", "sgd", "--steps", "3", "--name", "first try")
    [run] = json.loads(recopt("runs", "--json").out)
    assert offered("recopt report ", tmp_path, "zsh") == ["plain", run["id"][:8], "first try"]
    assert offered("recopt run --resume fir", tmp_path) == ["plain,first try"]
    assert offered("recopt ui --store nothing.db ", tmp_path) == []
    with closing(sqlite3.connect("other.db")) as base:
        base.execute("CREATE TABLE runs (id)")
    assert offered("recopt ui --store other.db ", tmp_path) == []


def test_the_script_is_that_of_the_shell(recopt: Recopt, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "complete -o nosort -F _recopt_completion recopt" in recopt("completion", "bash").out
    assert recopt("completion", "zsh").out.startswith("#compdef recopt")
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert "complete --no-files --command recopt" in recopt("completion").out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = recopt("completion")
    assert (done.status, done.err) == (
        2,
        "Error: Which shell? Name one of bash, zsh, fish, as in: recopt completion bash.\n",
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_real_bash_completes_a_stack_and_waits_for_the_value_of_a_setting(tmp_path: Path) -> None:
    write(f"#!{sys.executable}\n{MAIN}\n", str(tmp_path / "bin" / "recopt"))
    (tmp_path / "bin" / "recopt").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PS1": "$ ", "TERM": "dumb", "PYTHONPATH": os.pathsep.join(sys.path)}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 200))
    with subprocess.Popen(["bash", "--norc", "--noprofile", "-i"], stdin=theirs, stdout=theirs, stderr=theirs,
                          cwd=tmp_path, env=environment, start_new_session=True) as shell:  # fmt: skip
        try:
            os.write(ours, b'bind "set enable-bracketed-paste off"; eval "$(recopt completion bash)"; echo rea""dy\n')
            _until(ours, "ready\r\n")
            os.write(ours, b"recopt run digits 'adam(lr=0.1)/hyperg\t--set level2.ev\t20 --pat\t")
            seen = _until(ours, "--patience ")
            assert "recopt run digits 'adam(lr=0.1)/hypergradient' --set level2.every=20 --patience " in seen
        finally:
            shell.kill()
            os.close(ours)
            os.close(theirs)


def _until(terminal: int, text: str) -> str:
    """What the terminal shows until it shows ``text``."""
    seen, end = "", time.monotonic() + 60
    while text not in seen and time.monotonic() < end:
        seen += os.read(terminal, 1000).decode()
    return seen
