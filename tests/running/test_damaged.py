"""Damaged bytes: whatever is loaded again is refused unless it is what was written."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recopt import RecoptError
from recopt.contracts.errors import Notice
from recopt.engine import checkpoint
from recopt.running.checkpoints import CHECKPOINT, TRACE, go_back, step_in
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session
from recopt.stacks.exported import STACK, VALUES, read_folder
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.trace import load_trace

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


def damaged(whole: bytes, seed: int) -> Iterator[bytes]:
    """Copies of ``whole`` with one flipped bit, a zeroed or a random stretch, or the end cut off."""
    rng = random.Random(seed)
    while True:
        copy, at, length = bytearray(whole), rng.randrange(len(whole)), rng.choice([1, 1, 16, 300])
        kind = rng.choice(["flip", "flip", "zero", "noise", "cut"])
        if kind == "flip":
            copy[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del copy[at:]
        else:
            stretch = slice(at, min(at + length, len(copy)))
            size = stretch.stop - stretch.start
            copy[stretch] = bytes(size) if kind == "zero" else rng.randbytes(size)
        if copy != whole:
            yield bytes(copy)


def content(folder: Path, name: str) -> object:
    """All that is read from a file, to be compared."""
    if name == CHECKPOINT:
        return checkpoint._open(folder / name)
    if name == TRACE:
        trace = load_trace(folder / name)
        return {key: trace.series(*key) for key in trace.keys()}  # noqa: SIM118 - not a mapping
    found = read_folder(folder)
    return found.told.model_copy(update={"digests": {}}), found.values


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(("name", "below"), [(CHECKPOINT, ""), (TRACE, ""), (STACK, "export"), (VALUES, "export")])
def test_damaged_bytes_are_refused_in_a_sentence_or_change_nothing(
    name: str, below: str, finished: Path, tmp_path: Path
) -> None:
    for file in (finished / below).glob("*.*"):
        shutil.copy(file, tmp_path)
    whole, expected, refused = (tmp_path / name).read_bytes(), content(tmp_path, name), 0
    for _, copy in zip(range(CASES), damaged(whole, seed=len(name)), strict=False):
        (tmp_path / name).write_bytes(copy)
        try:
            found = content(tmp_path, name)
        except RecoptError as why:
            refused += "\n" not in str(why)
        else:
            assert equal(found, expected), "it was read, and is not what was written"
    assert refused > 0.75 * CASES, "the rest are bytes that nobody reads, such as the times in an archive"


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


def test_another_number_of_threads_is_told(finished: Path) -> None:
    torch.set_num_threads(2)
    try:
        with pytest.warns(Notice, match="made with 1 threads of torch, and goes on with 2"):
            Session(MADE, RunOptions(track=False, saved=finished))
    finally:
        torch.set_num_threads(1)
