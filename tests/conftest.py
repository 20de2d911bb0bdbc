"""What every test runs under: one thread, no telemetry, no settings of the user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before torch, numpy and mlflow are imported; processes that tests start inherit it.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg", MLFLOW_DISABLE_TELEMETRY="true")
_OWN = ("MLFLOW_TRACKING", "MLFLOW_REGISTRY", "RECOPT_", "COLUMNS")  # the last is of those who run pytest in parallel
for _name in [name for name in os.environ if name.startswith(_OWN)]:
    del os.environ[_name]

import pytest  # noqa: E402
import torch  # noqa: E402

from .commands import Done, Recopt  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Each test starts from the same global seed, and one that leaves torch's defaults changed fails."""
    torch.manual_seed(0)
    yield
    left = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    assert left == (torch.float32, 1, True), f"the test left torch's defaults changed: {left}"


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded CPU generator."""
    return torch.Generator().manual_seed(0)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are no names: they are unreadable, and those of an archive carry the time they were made."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def recopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Recopt:
    """Runs a command line in an empty folder."""
    from recopt.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(args)
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty store, to be copied: making the tables takes longer than most tests."""
    from recopt.tracking.mlflow.store import open_store

    folder = tmp_path_factory.mktemp("made")
    open_store(None, folder, create=True)
    return folder / "mlflow.db"
