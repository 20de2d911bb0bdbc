"""What is installed: the wheel holds the shipped strategies and specs inside the package, and works from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import recopt
from recopt.running.export import write_export

ROOT = Path(__file__).parent.parent
TESTED = ("test", "dev", "docs", "tensorboard", "lightning", "transformers")
"""The extras that `.ci/run` installs."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of this checkout, in which runs and Python have left things behind."""
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in ("recopt", "strategies"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, checkout / name)
    result = recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=20, track=False)
    write_export(result.engine, result.spec, checkout / "strategies/learned-tiny")
    for left in (
        "runs/spec.yaml",
        "runs/mlflow.db",
        "runs/1/spec.yaml",
        "strategies/__pycache__/sgd.pyc",
        "tests/x.py",
    ):
        (checkout / left).parent.mkdir(parents=True, exist_ok=True)
        (checkout / left).touch()
    return zipfile.ZipFile(built("wheel", checkout))


def built(kind: str, checkout: Path) -> Path:
    """The distribution (``wheel`` or ``sdist``) of a checkout."""
    code = f"import hatchling.build as b; print(b.build_{kind}('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    return checkout / done.stdout.split()[-1]


def test_the_wheel_holds_one_package_and_no_litter(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.partition("/")[0] for name in names} == {"recopt", f"recopt-{recopt.__version__}.dist-info"}
    inside = [name for name in names if name.startswith("recopt/")]
    assert not {name.rpartition(".")[2] for name in inside} & {"pyc", "db", "log", "gz"}
    assert [name for name in inside if name.startswith("recopt/_runs/")] == ["recopt/_runs/spec.yaml"]
    shipped = {Path(name).name for name in inside if name.startswith("recopt/_strategies/")}
    trained = {"card.md", "stack.json", "strategies.safetensors", "model.safetensors"}
    assert shipped == {path.name for path in (ROOT / "strategies").rglob("*.*") if path.suffix != ".pyc"} | trained
    assert {f"recopt/_strategies/learned-tiny/{name}" for name in trained} <= set(inside)
    assert {"recopt/py.typed", "recopt/stacks/plugins.py", "recopt/tasks/__init__.py"} <= set(names)


def test_a_wheel_made_from_the_sdist_is_the_same(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    assert wheel.filename is not None
    with tarfile.open(built("sdist", Path(wheel.filename).parent)) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (checkout,) = tmp_path.iterdir()
    again = zipfile.ZipFile(built("wheel", checkout))
    assert {info.filename: info.CRC for info in again.infolist()} == {x.filename: x.CRC for x in wheel.infolist()}


def test_the_sdist_has_what_its_tests_need() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    names = build["targets"]["sdist"]["only-include"]
    assert {"recopt", "strategies", "tests", "docs", "examples", "benchmarks"} <= set(names)
    assert all((ROOT / name).exists() for name in names)


def test_what_is_in_the_wheel_works_from_another_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = (
        "import recopt, recopt.stacks.plugins as p, sys; p.load_task('quadratic'); s = p.load_strategy('sgd');"
        "assert p.load_strategy('learned-tiny')().hidden == 4;"
        "from recopt.stacks.plugin_file import source_of;"
        "print(source_of(s)[0], recopt.__file__); sys.exit(any(i.problem for i in p.list_strategies()))"
    )
    env = {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    inside = tmp_path / "site" / "recopt"
    assert done.stdout.split() == [str(inside / "_strategies" / "sgd.py"), str(inside / "__init__.py")]


def test_the_oldest_set_is_what_the_bounds_allow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    oldest = dict(line.partition(" ")[0].split("==") for line in lines if not line.startswith("#"))
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        name, bound = re.fullmatch(r"([\w-]+)[>=]=([\d.]+).*", requirement).groups()  # type: ignore[union-attr]
        assert name == "torch" or f"{oldest[name]}.".startswith(f"{bound}."), requirement


def test_the_tested_set_covers_what_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *(x for name in TESTED for x in extras[name])]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    for requirement in required:
        name = requirement.partition(";")[0]
        for mark in "<>=!~[ ":
            name = name.partition(mark)[0]
        assert name.lower().replace("_", "-") in pinned, f"constraints.txt lacks {name}"
    assert all("==" in line and "+" not in line and "://" not in line for line in lines)
