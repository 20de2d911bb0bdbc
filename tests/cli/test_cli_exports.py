"""``recopt export``, and what the command line does with what it wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import recopt
from recopt.cli import main
from recopt.tracking.mlflow.runs import fetch_model


class Done(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recorded run."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=60, name="first",
                   settings=["level2.every=5", "level2.episode=20"])  # fmt: skip
    return folder


@pytest.fixture
def call(recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in that folder."""
    monkeypatch.chdir(recorded)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*args: str) -> Done:
        with pytest.raises(SystemExit) as end:
            main(args)
        said = capsys.readouterr()
        return Done(int(end.value.code or 0), said.out, said.err)

    return called


def test_an_export_among_the_strategies_is_one(call: Call) -> None:
    done = call("export", "first", "strategies/learned-tiny", "--no-model")
    assert (done.code, done.out) == (0, "strategies/learned-tiny\n")
    there = sorted(path.name for path in Path("strategies/learned-tiny").iterdir())
    assert there == ["card.md", "stack.json", "strategies.safetensors"]
    listed = next(line for line in call("strategies").out.splitlines() if line.startswith("learned-tiny "))
    assert "lstm(hidden=4), trained on quadratic(dim=3) for 60 steps." in listed
    assert listed.rstrip().endswith("./strategies, trained")
    shown = call("show", "learned-tiny").out
    for line in (Path("strategies/learned-tiny/card.md").read_text()).splitlines():
        assert line in shown
    assert "not measured" in shown and "its weights are meta-parameters, trained." in shown
    assert " 4  whole number" in shown  # the width it was trained with, where lstm has 20
    assert call("show", "strategies/learned-tiny").out.partition("\n")[2].startswith("lstm(hidden=4), trained on")
    assert call("show", "lstm").out.count("to be trained") == 1
    done = call("run", "quadratic(dim=3)", "learned-tiny", "--steps", "5", "--no-track")
    assert done.code == 0 and done.out.startswith("quadratic  learned-tiny\nfinished, 5 steps")
    shutil.rmtree("strategies")


def test_a_comparison_takes_it_by_name_and_by_folder_alike(call: Call) -> None:
    call("export", "first", "mine/learned-tiny")
    spec = "task: quadratic(dim=3)\nplugins: [mine]\nbaselines: []\nseeds: 4\nsteps: 6\nstacks:\n"
    spec += "  - learned-tiny\n  - {stack: mine/learned-tiny, name: folder}\n  - learned-tiny/sgd\n  - lstm(hidden=4)\n"
    Path("spec.yaml").write_text(spec)
    assert call("compare", "--spec", "spec.yaml", "--no-track", "-o", "told").code == 0
    entries = json.loads(Path("told/comparison.json").read_text())["entries"]
    assert [entry["kind"] for entry in entries] == ["export", "export", "stack", "stack"]
    assert entries[0]["score"] == entries[1]["score"] != entries[3]["score"]
    assert entries[0]["prepared"] == entries[1]["prepared"] == entries[2]["prepared"] >= 60
    assert [note for entry in entries for note in entry.get("notes", [])] == ["'lstm' starts untrained."]


def test_an_export_is_registered(call: Call) -> None:
    done = call("export", "first", "out", "--register", "tiny", "--alias", "best")
    assert (done.code, done.out) == (0, "out\nmodels:/tiny@best\n")
    found = fetch_model("models:/tiny@best")
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in Path("out").iterdir()
    }
    assert call("export", "first", "again", "--register", "tiny").out == "again\nmodels:/tiny/2\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--alias", "best"), "'--alias' names a version of a registered model: give '--register NAME' too."),
        (("--register", "a/b"), "'a/b' cannot be a model's name"),
        (("--register", "a", "--alias", "v1"), "'v1' cannot be an alias"),
    ],
)
def test_what_cannot_be_registered_is_not_exported(call: Call, options: tuple[str, ...], words: str) -> None:
    done = call("export", "first", "none", *options)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not Path("none").exists()
