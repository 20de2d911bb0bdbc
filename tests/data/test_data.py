"""Data sets: from their official form, over the network and from a disk, into tensors."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recopt.data
from recopt.checking.errors import RecoptError
from recopt.data import download, folder, sets
from recopt.data.download import Remote

from .. import data_server
from ..data_server import put


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[data_server.Server]:
    """A loopback server that stands for all official places; nothing else can be reached."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "RECOPT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(sets, "DEBIAN", Path("/nonexistent"))
    served, listener = data_server.serve()
    nowhere = {name: Remote((f"{served.base}/nothing",), "md5:0") for name in ("EMNIST", "CIFAR10")}
    monkeypatch.setattr(sets, "MNIST", dict.fromkeys(sets.MNIST, nowhere["EMNIST"]))
    monkeypatch.setattr(sets, "FASHION", sets.MNIST)
    monkeypatch.setattr(sets, "SVHN", dict.fromkeys(sets.SVHN, nowhere["EMNIST"]))
    for name, remote in nowhere.items():
        monkeypatch.setattr(sets, name, remote)
    yield served
    listener.shutdown()
    listener.server_close()


# --- the sets, fetched ---


@pytest.mark.parametrize(("name", "place"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_sets_are_fetched_once_into_torchvisions_layout(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, place: str
) -> None:
    files = data_server.mnist()
    monkeypatch.setattr(sets, {"mnist": "MNIST", "fashion-mnist": "FASHION"}[name], server.remotes(files, ".gz"))
    loaded = recopt.data.load(name, tmp_path)
    assert {p.name for p in (tmp_path / place / "raw").iterdir()} == set(files)
    assert torch.equal(loaded.train[0], torch.from_numpy(data_server.images(30, 28, 28, seed=30)).unsqueeze(1))
    assert torch.equal(loaded.test[1], torch.arange(20) % 10)
    assert (loaded.train[0].dtype, loaded.train[1].dtype) == (torch.uint8, torch.int64)
    assert loaded.classes == 10
    assert loaded.note == "30 of 60,000 training and 20 of 10,000 test images"
    recopt.data.load(name, tmp_path)
    assert len(server.asked) == 4


def test_emnist_is_turned_upright_and_counted_from_0(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sets, "EMNIST", server.remote("gzip.zip", data_server.emnist()))
    loaded = recopt.data.load("emnist", tmp_path)
    assert torch.equal(loaded.train[0][:, 0], torch.from_numpy(data_server.images(52, 28, 28, seed=52)))
    assert torch.equal(loaded.train[1], torch.arange(52) % 26)
    assert loaded.classes == 26
    left = sorted(p.name for p in (tmp_path / "EMNIST" / "raw").iterdir())
    assert left == sorted(
        f"emnist-letters-{s}-{k}-ubyte.gz" for s in ("train", "test") for k in ("images-idx3", "labels-idx1")
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["EMNIST"]
    recopt.data.load("emnist", tmp_path)
    assert len(server.asked) == 1


def test_cifar10_takes_only_the_wanted_members(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sets, "CIFAR10", server.remote("cifar-10-binary.tar.gz", data_server.cifar()))
    data = tmp_path / "data"
    loaded = recopt.data.load("cifar10", data)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        f"data/cifar-10-batches-bin/{n}.bin" for n in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    )
    expected = np.concatenate([data_server.images(4, 3, 32, 32, seed=n) for n in range(1, 6)])
    assert torch.equal(loaded.train[0], torch.from_numpy(expected))
    assert torch.equal(loaded.train[1], (torch.arange(20) % 4))
    assert torch.equal(loaded.test[0], torch.from_numpy(data_server.images(3, 3, 32, 32, seed=9)))


def test_svhn_label_10_is_the_digit_0(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"train_32x32.mat": data_server.svhn(21, 1), "test_32x32.mat": data_server.svhn(11, 2)}
    monkeypatch.setattr(sets, "SVHN", server.remotes(files))
    loaded = recopt.data.load("svhn", tmp_path)
    assert torch.equal(loaded.train[1], torch.tensor([*range(1, 10), 0] * 2 + [1]))
    upright = data_server.images(21, 32, 32, 3, seed=1).transpose(0, 3, 1, 2)
    assert torch.equal(loaded.train[0], torch.from_numpy(upright.copy()))
    assert loaded.train[0].is_contiguous()
    assert sorted(p.name for p in (tmp_path / "SVHN").iterdir()) == sorted(files)


# --- caches that are there already ---


def test_plain_idx_files_are_used_as_they_are(server: data_server.Server, tmp_path: Path) -> None:
    plain = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in data_server.mnist().items()}
    put(tmp_path / "MNIST" / "raw", plain)
    assert len(recopt.data.load("mnist", tmp_path).train[1]) == 30
    assert not server.asked


def test_only_what_is_missing_is_fetched(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = data_server.mnist()
    monkeypatch.setattr(sets, "MNIST", server.remotes(files, ".gz"))
    put(tmp_path / "MNIST" / "raw", {k: v for k, v in files.items() if k.startswith("train")})
    recopt.data.load("mnist", tmp_path)
    assert sorted(name for name, _ in server.asked) == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def test_debians_folder_is_searched(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(tmp_path / "debian" / "fashion-mnist", data_server.mnist())
    monkeypatch.setattr(sets, "DEBIAN", tmp_path / "debian")
    assert len(recopt.data.load("fashion-mnist", tmp_path / "empty").test[1]) == 20
    assert not (tmp_path / "empty").exists()


def test_archives_put_there_by_hand_are_used_and_kept(server: data_server.Server, tmp_path: Path) -> None:
    put(tmp_path, {"cifar-10-binary.tar.gz": data_server.cifar()})
    put(tmp_path / "EMNIST", {"gzip.zip": data_server.emnist()})
    assert len(recopt.data.load("cifar10", tmp_path).train[1]) == 20
    assert len(recopt.data.load("emnist", tmp_path).train[1]) == 52
    assert (tmp_path / "cifar-10-binary.tar.gz").exists()
    assert (tmp_path / "EMNIST" / "gzip.zip").exists()
    assert not server.asked


def test_a_partial_cifar_copy_loads_with_a_note(server: data_server.Server, tmp_path: Path) -> None:
    names = {"data_batch_1.bin": data_server.cifar_file(7), "test_batch.bin": data_server.cifar_file(5)}
    put(tmp_path / "cifar-10-batches-bin", names)
    loaded = recopt.data.load("cifar10", tmp_path)
    assert (len(loaded.train[1]), len(loaded.test[1])) == (7, 5)
    assert loaded.note == "7 of 50,000 training and 5 of 10,000 test images"


@pytest.mark.parametrize("place", ["", "SVHN", "svhn"])
def test_svhn_where_others_leave_it(server: data_server.Server, tmp_path: Path, place: str) -> None:
    put(tmp_path / place, {"train_32x32.mat": data_server.svhn(12), "test_32x32.mat": data_server.svhn(3)})
    assert len(recopt.data.load("svhn", tmp_path).train[1]) == 12


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECOPT_DATA", str(tmp_path))
    assert folder.data_folder() == tmp_path
    monkeypatch.delenv("RECOPT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folder.data_folder() == tmp_path / "cache" / "recopt" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.data_folder() == tmp_path / ".cache" / "recopt" / "data"


def test_loading_from_the_named_folder(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(tmp_path / "MNIST" / "raw", data_server.mnist(5, 4))
    monkeypatch.setenv("RECOPT_DATA", str(tmp_path))
    assert len(recopt.data.load("mnist").train[1]) == 5


# --- no network ---


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mnist", ["MNIST/raw/train-images-idx3-ubyte.gz", "MNIST/raw/t10k-labels-idx1-ubyte.gz"]),
        ("emnist", ["EMNIST/raw/gzip.zip"]),
        ("cifar10", ["cifar-10-binary.tar.gz"]),
        ("svhn", ["SVHN/train_32x32.mat", "SVHN/test_32x32.mat"]),
    ],
)
def test_offline_says_what_to_fetch_and_where_to_put_it(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, missing: list[str]
) -> None:
    monkeypatch.setenv("RECOPT_OFFLINE", "1")
    with pytest.raises(RecoptError, match="RECOPT_OFFLINE forbids fetching") as caught:
        recopt.data.load(name, tmp_path)
    assert all(f"{server.base}/nothing  ->  {tmp_path / place}" in str(caught.value) for place in missing)
    assert not server.asked
    assert not list(tmp_path.iterdir())


def test_no_answer_says_what_to_fetch_and_where_to_put_it(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = Remote(("http://127.0.0.1:9/gone.zip",), "md5:0")
    monkeypatch.setattr(sets, "EMNIST", closed)
    with pytest.raises(RecoptError, match="Connection refused") as caught:
        recopt.data.load("emnist", tmp_path)
    assert f"http://127.0.0.1:9/gone.zip  ->  {tmp_path}/EMNIST/raw/gzip.zip" in str(caught.value)
    assert "RECOPT_DATA" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False), ("FALSE", False)]
)
def test_the_offline_switch(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("RECOPT_OFFLINE", value)
    assert folder.offline() is expected


def test_an_unclear_offline_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOPT_OFFLINE", "perhaps")
    with pytest.raises(RecoptError, match="RECOPT_OFFLINE must be 1 or 0, not 'perhaps'"):
        folder.offline()


def test_an_unknown_set_is_refused() -> None:
    assert recopt.data.names() == ["cifar10", "emnist", "fashion-mnist", "mnist", "svhn"]
    with pytest.raises(RecoptError, match="Unknown data set 'minst'. Did you mean 'mnist'?"):
        recopt.data.load("minst")


# --- files that do not fit ---


@pytest.mark.parametrize("name", ["emnist", "cifar10"])
@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no archive" * 99])
def test_damaged_archives_are_refused(server: data_server.Server, tmp_path: Path, name: str, spoil: Any) -> None:
    put(tmp_path, {"cifar-10-binary.tar.gz": spoil(data_server.cifar())})
    put(tmp_path / "EMNIST", {"gzip.zip": spoil(data_server.emnist())})
    with pytest.raises(RecoptError, match="is damaged"):
        recopt.data.load(name, tmp_path)


def test_an_archive_that_lacks_a_file_is_refused(server: data_server.Server, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        archive.writestr("gzip/other.gz", b"")
    with pytest.raises(RecoptError, match="there is no file gzip/emnist-letters-train-images-idx3-ubyte.gz in it"):
        recopt.data.load("emnist", tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"train-labels-idx1-ubyte.gz": gzip.compress(data_server.idx(np.arange(29) % 10))}, "30 images but 29 labels"),
        ({"t10k-labels-idx1-ubyte.gz": gzip.compress(data_server.idx(np.arange(20)))}, "labels beyond its 10 classes"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    server: data_server.Server, tmp_path: Path, spoil: dict[str, bytes], message: str
) -> None:
    put(tmp_path / "MNIST" / "raw", {**data_server.mnist(), **spoil})
    with pytest.raises(RecoptError, match=message):
        recopt.data.load("mnist", tmp_path)


def test_the_letter_0_is_refused(server: data_server.Server, tmp_path: Path) -> None:
    stem = "emnist-letters-{}-{}-ubyte"
    for split in ("train", "test"):
        put(
            tmp_path / "EMNIST" / "raw",
            {
                stem.format(split, "images-idx3"): data_server.idx(data_server.images(5, 28, 28)),
                stem.format(split, "labels-idx1"): data_server.idx(np.arange(5)),
            },
        )
    with pytest.raises(RecoptError, match="labels beyond its 26 classes"):
        recopt.data.load("emnist", tmp_path)


def test_official_places_and_digests_are_complete() -> None:
    remotes = [*sets.MNIST.values(), *sets.FASHION.values(), sets.EMNIST, sets.CIFAR10, *sets.SVHN.values()]
    lengths = {"md5": 32, "sha256": 64}
    for remote in remotes:
        kind, _, digest = remote.digest.partition(":")
        assert len(digest) == lengths[kind]
        assert set(digest) <= set("0123456789abcdef")
        assert remote.urls
        assert all(url.startswith(("http://", "https://")) for url in remote.urls)
    assert len({remote.digest for remote in remotes}) == len(remotes)
