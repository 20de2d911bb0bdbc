"""Image classifiers on small sets in the true formats."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

import recopt.tasks
from recopt.checking.errors import RecoptError
from recopt.tasks.images import Images
from recopt.tasks.supervised import _KNOWN

from .. import data_server

SHAPES = {
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "emnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "svhn": (3, 32, 32),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOPT_DATA", str(tmp_path))
    monkeypatch.setenv("RECOPT_OFFLINE", "1")
    data_server.fill(tmp_path)
    return tmp_path


def images(name: str, **options: object) -> Images:
    task = recopt.tasks.make(name, **options)
    assert isinstance(task, Images)
    return task


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_classes_and_splits(name: str) -> None:
    task = images(name, batch_size=16)
    assert task.shape == SHAPES[name]
    x, y = task.batch(0)
    assert x.shape == (16, *SHAPES[name])
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    sizes = [len(task.examples(split)[1]) for split in ("train", "valid", "test")]  # type: ignore[arg-type]
    assert sizes[1] == (sizes[0] + sizes[1]) // 10
    labels = torch.cat([task.examples(s)[1] for s in ("train", "valid")])  # type: ignore[arg-type]
    assert set(labels.tolist()) == set(range(task.classes))
    assert task.model()(x).shape == (16, task.classes)
    assert "of" in task.note


def test_the_defaults_are_the_published_network() -> None:
    task = images("mnist")
    assert [tuple(p.shape) for p in task.model().parameters()] == [(20, 784), (20,), (10, 20), (10,)]
    assert task.batch_size == 128
    x, _ = task.batch(0)
    raw = task.examples("train")[0][task.rows(0)]
    assert torch.equal(x, raw.float() / 255)


def test_colour_is_standardized_per_channel() -> None:
    task = images("cifar10", batch_size=0)
    x, _ = task.batch(0)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_one_copy_serves_all_tasks_of_a_process(folder: Path) -> None:
    key = ("mnist", folder)
    one, other = images("mnist", hidden=[3]), images("mnist", net="cnn", batch_size=7)
    one.batch(0)
    assert other.examples("train")[0] is one.examples("train")[0]
    assert images("fashion-mnist").examples("train")[0] is not one.examples("train")[0]
    del one, other
    gc.collect()
    assert key not in _KNOWN


def test_another_folder_is_another_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = images("mnist")
    assert len(one.examples("train")[1]) == 270
    monkeypatch.setenv("RECOPT_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(RecoptError, match=f"{tmp_path}/elsewhere/MNIST/raw/train-images-idx3-ubyte.gz"):
        images("mnist").batch(0)


def test_missing_data_are_refused_when_first_needed_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "SVHN" / "train_32x32.mat").unlink()
    task = images("svhn")
    task.model()
    for _ in range(2):
        with pytest.raises(RecoptError, match="RECOPT_OFFLINE forbids fetching"):
            task.batch(0)
