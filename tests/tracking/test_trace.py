"""The trace: columns, thinning, the file, and what a resumed run does to them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from recopt.checking.errors import RecoptError
from recopt.tracking.thinning import Thinning
from recopt.tracking.trace import Trace, load_trace, save_trace


def filled(steps: range, total: int | None = None) -> Trace:
    trace = Trace(total)
    for step in steps:
        trace.add(0, step, {"loss": 1 / (step + 1)})
        if step % 10 == 0:
            trace.add(2, step, {"meta_loss": float(step), "lr": torch.tensor(0.1 * step)})
    return trace


def given(trace: Trace, last: bool = False) -> dict[tuple[int, str], list[int]]:
    return {(points.level, points.key): points.steps.tolist() for points in trace.drain(last)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_series_has_the_values_that_were_added(dtype: torch.dtype) -> None:
    trace, values = Trace(), [0, 1, 1, 0, 1]
    for step, value in enumerate(values):
        trace.add(1, step, {"a": torch.tensor(value, dtype=dtype), "b": float("nan"), "c": 0.1})
    steps, found = trace.series(1, "a")
    assert steps.dtype == np.int64
    assert found.dtype == np.float64
    assert (steps.tolist(), found.tolist()) == ([0, 1, 2, 3, 4], values)
    assert np.isnan(trace.series(1, "b")[1]).all()
    assert set(trace.series(1, "c")[1]) == {0.1}  # not what float32 makes of it
    assert trace.keys() == [(1, "a"), (1, "b"), (1, "c")]
    assert trace.series(1, "none")[0].shape == trace.series(3, "a")[1].shape == (0,)


def test_a_tensor_is_kept_without_its_graph_and_without_what_it_is_a_view_of() -> None:
    trace, leaf = Trace(), torch.ones(100_000, requires_grad=True)
    trace.add(0, 0, {"loss": leaf.sum(), "first": leaf[0]})
    kept = [value for rows in trace._rows.values() for _, row in rows.pending for value in row]
    assert all(isinstance(v, torch.Tensor) and v.grad_fn is None and v.untyped_storage().nbytes() < 100 for v in kept)
    assert trace.series(0, "loss")[1].tolist() == [100_000]


def test_a_tensor_with_a_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss has shape \(3,\)"):
        Trace().add(0, 0, {"loss": torch.zeros(3)})


def test_a_key_that_comes_with_different_others_is_one_column() -> None:
    trace = Trace()
    for step in range(6):
        trace.add(0, step, {"loss": float(step), **({"valid_loss": 9.0} if step % 2 else {})})
    assert trace.series(0, "loss")[0].tolist() == trace.series(0, "loss")[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert trace.series(0, "valid_loss")[0].tolist() == [1, 3, 5]


def test_many_rows_come_out_as_they_went_in() -> None:
    trace, values = Trace(), np.random.default_rng(0).standard_normal(10_001)
    for step, value in enumerate(values.tolist()):
        trace.add(0, 3 * step, {"loss": value})
        if step % 777 == 0:
            assert trace.series(0, "loss")[1][-1] == value
    steps, found = trace.series(0, "loss")
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(steps, 3 * np.arange(10_001))


@pytest.mark.parametrize(
    ("total", "length", "apart", "least", "most"),
    [
        (None, 1, 1, 1, 1),
        (None, 250, 1, 250, 250),
        (None, 1_000_000, 1, 1500, 2000),
        (2000, 2000, 1, 2000, 2000),
        (30_000, 30_000, 1, 1800, 2000),
        (30_000, 30_000, 20, 1500, 1500),
        (1_000_000, 1_000_000, 1, 1900, 2000),
        (1_000_000, 1_000_000, 7, 1900, 2000),
        (1_000_000, 10_000_000, 1, 4000, 6000),  # resumed to ten times its length
    ],
)
def test_thinning_keeps_the_first_and_about_two_thousand_points(
    total: int | None, length: int, apart: int, least: int, most: int
) -> None:
    steps = np.arange(0, length, apart)
    kept = steps[Thinning(2000, total).keep(steps)]
    assert kept[0] == 0
    assert least <= len(kept) <= most
    if total == length:  # evenly spread
        assert np.diff(kept).max(initial=0) <= 2 * length // 2000 + apart


def test_thinning_is_the_same_however_a_column_is_cut() -> None:
    thinning, steps = Thinning(100, 5000), np.cumsum(np.random.default_rng(1).integers(1, 9, 3000))
    whole = thinning.keep(steps)
    for cut in (0, 1, 17, 1500, 2999, 3000):
        before = int(steps[cut - 1]) if cut else None
        parts = [thinning.keep(steps[:cut]), thinning.keep(steps[cut:], before)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_drains_add_up_to_one_thinned_column_with_its_last_point() -> None:
    trace, whole = Trace(100_000), []
    for step in range(50_003):
        trace.add(0, step, {"loss": float(step)})
        if step % 4999 == 0:
            whole += given(trace).get((0, "loss"), [])
    whole += given(trace, last=True)[0, "loss"]
    assert whole == [*range(0, 50_003, 64), 50_002]
    assert given(trace, last=True) == {}


def test_the_last_point_is_given_once() -> None:
    trace = filled(range(5))
    assert given(trace)[0, "loss"] == [0, 1, 2, 3, 4]
    assert given(trace, last=True) == {}


def test_truncating_forgets_what_came_after() -> None:
    trace = filled(range(50))
    lengths = trace.lengths()
    for step in range(49, 100):  # another point at the last step, too
        trace.add(0, step, {"loss": 0.0})
        trace.add(3, step, {"restored": 1.0})
    trace.drain()
    trace.truncate(lengths)
    assert trace.lengths() == lengths
    assert trace.series(0, "loss")[0].tolist() == list(range(50))
    assert trace.series(2, "lr")[0].tolist() == [0, 10, 20, 30, 40]
    assert trace.keys() == [(0, "loss"), (2, "meta_loss"), (2, "lr")]
    for step in range(50, 60):
        trace.add(0, step, {"loss": 0.0})
    assert given(trace)[0, "loss"] == list(range(60))
    trace.truncate([])
    assert trace.keys() == []


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 4321, 4999])
def test_a_resumed_run_thins_as_an_unbroken_one_does(tmp_path: Path, at: int) -> None:
    unbroken, killed = filled(range(9000), total=9000), filled(range(at), total=9000)
    lengths = json.loads(json.dumps(killed.lengths()))  # as a checkpoint keeps them
    for step in range(at, 5000):
        killed.add(0, step, {"loss": -1.0})
    save_trace(killed, tmp_path / "trace.npz")
    resumed = load_trace(tmp_path / "trace.npz", total=9000)
    resumed.truncate(lengths)
    for step in range(at, 9000):
        resumed.add(0, step, {"loss": 1 / (step + 1)})
        if step % 10 == 0:
            resumed.add(2, step, {"meta_loss": float(step), "lr": torch.tensor(0.1 * step)})
    for name in unbroken.keys():  # noqa: SIM118 - not a mapping
        for one, other in zip(unbroken.series(*name), resumed.series(*name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert given(resumed, last=True) == given(unbroken, last=True)


def test_a_saved_trace_comes_back_exactly_and_reads_as_plain_arrays(tmp_path: Path) -> None:
    trace = filled(range(3000))
    trace.add(1, 3000, {"lr of */weight": 1e-300, "inf": float("inf"), "nan": float("nan"), "0": -0.0})
    save_trace(trace, tmp_path / "runs" / "trace.npz")
    again = load_trace(tmp_path / "runs" / "trace.npz")
    assert again.keys() == trace.keys()
    for name in trace.keys():  # noqa: SIM118 - not a mapping
        for one, other in zip(trace.series(*name), again.series(*name), strict=True):
            np.testing.assert_array_equal(one, other)
    with np.load(tmp_path / "runs" / "trace.npz", allow_pickle=False) as arrays:
        assert arrays["level0/rows0/steps"].tolist() == list(range(3000))
        assert arrays["level2/rows1/values/lr"].dtype == np.float32


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.npz"
    save_trace(filled(range(10)), path)
    old = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space"):
        save_trace(filled(range(20)), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"words"])
def test_a_file_that_is_no_trace_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.npz"
    with pytest.raises(RecoptError, match="There is no trace at"):
        load_trace(path)
    path.write_bytes(content)
    with pytest.raises(RecoptError, match="is damaged, or no trace"):
        load_trace(path)


def test_a_pickle_in_a_trace_is_not_opened(tmp_path: Path) -> None:
    path, bad = tmp_path / "trace.npz", tmp_path / "bad.npy"
    np.save(bad, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(bad, "level0/rows0/steps.npy")
    with pytest.raises(RecoptError, match="is damaged, or no trace"):
        load_trace(path)
