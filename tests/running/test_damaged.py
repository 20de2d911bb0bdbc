"""Damaged bytes: whatever is loaded again is refused unless it is what was written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.damage import FILES, damage
from recopt import RecoptError
from recopt.checking.errors import Notice
from recopt.running.checkpoints import CHECKPOINT, TRACE, go_back, step_in
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session
from recopt.tracking.mlflow.runs import list_runs

CASES = 150
"""Damaged copies of each file."""
MADE = plan("quadratic", "adam/hypergradient/annealing", steps=30, settings=["level3.every=6"], measure=10)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    root = tmp_path_factory.mktemp("finished")
    folder = Session(MADE, RunOptions(root=root)).run().folder
    assert folder is not None
    return folder


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_are_refused_in_a_sentence_or_change_nothing(name: str, finished: Path, tmp_path: Path) -> None:
    found = damage(finished / FILES[name], name, tmp_path, CASES, seed=len(name))
    assert found["refused"] + found["the same is read"] == CASES, found
    assert found["refused"] > 0.75 * CASES, "the rest are bytes that nobody reads, such as the times in an archive"


@pytest.mark.parametrize("name", [CHECKPOINT, TRACE])
def test_the_checkpoint_before_a_damaged_one_is_offered_and_goes_on_to_the_same_end(name: str, tmp_path: Path) -> None:
    def often(session: Session) -> None:
        assert session.recorder.folder is not None
        session.checkpoints.save(session.recorder.folder)
        if session.step == 20:
            raise MemoryError

    with pytest.raises(MemoryError):
        Session(MADE, RunOptions(root=tmp_path, progress=often)).run()
    (row,) = list_runs(None, root_dir=tmp_path)
    assert row.folder is not None
    whole = (row.folder / name).read_bytes()
    (row.folder / name).write_bytes(whole[:-200] + bytes(100) + whole[-100:])
    options = RunOptions(root=tmp_path, resume=row.id)
    with pytest.raises(RecoptError, match=r"damaged.* The one before it, of step \d+, is whole: add --previous\."):
        Session(MADE, options)
    go_back(row.folder)
    assert step_in(row.folder) <= 20
    undisturbed = Session(MADE, RunOptions(track=False)).run()
    np.testing.assert_array_equal(Session(MADE, options).run().losses, undisturbed.losses)


def test_a_changed_spec_or_a_lost_trace_is_not_gone_on_with(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    other = plan("quadratic", "adam/hypergradient/annealing", steps=30, settings=["level3.every=6"], seed=1)
    with pytest.raises(RecoptError, match="of a run with another 'seed': resume it with the spec.yaml"):
        Session(other, RunOptions(track=False, saved=tmp_path / "run"))
    (tmp_path / "run" / TRACE).unlink()
    with pytest.raises(RecoptError, match=r"trace\.npz ends before the checkpoint beside it"):
        Session(MADE, RunOptions(track=False, saved=tmp_path / "run"))


def test_a_run_without_a_checkpoint_says_how_to_start_it_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / CHECKPOINT).unlink()
    with pytest.raises(RecoptError, match=r"There is no checkpoint in .*: recopt run --spec .*spec\.yaml$"):
        step_in(tmp_path / "run")


def test_another_number_of_threads_is_told(finished: Path) -> None:
    torch.set_num_threads(2)
    try:
        with pytest.warns(Notice, match="made with 1 threads of torch, and goes on with 2"):
            Session(MADE, RunOptions(track=False, saved=finished))
    finally:
        torch.set_num_threads(1)
