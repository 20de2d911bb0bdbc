"""Reading the formats: whatever is wrong with a file, it is refused by name."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recopt.contracts.errors import RecoptError
from recopt.data import formats

from .. import data_server
from ..data_server import put

GOOD = data_server.idx(data_server.images(6, 28, 28))


WRONG_IDX: dict[str, bytes] = {
    "empty": b"",
    "header": GOOD[:10],
    "truncated": GOOD[:-1],
    "longer": GOOD + b"?",
    "labels": data_server.idx(np.arange(6)),
    "sizes": data_server.idx(data_server.images(6, 27, 28)),
    "none": data_server.idx(data_server.images(0, 28, 28)),
    "html": b"<html>not found</html>",
}


@pytest.mark.parametrize("kind", WRONG_IDX)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files_are_refused(tmp_path: Path, kind: str, zipped: bool) -> None:
    path = tmp_path / ("images.gz" if zipped else "images")
    path.write_bytes(gzip.compress(WRONG_IDX[kind]) if zipped else WRONG_IDX[kind])
    with pytest.raises(RecoptError, match=f"{path} is damaged .*delete it"):
        formats.read_idx(path, (28, 28))


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-20], lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], lambda b: b"no gzip" + b]
)
def test_damaged_gzip_is_refused(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(spoil(gzip.compress(GOOD)))
    with pytest.raises(RecoptError, match="is damaged"):
        formats.read_idx(path, (28, 28))


@pytest.mark.parametrize("content", [b"", data_server.cifar_file(3)[:-1]])
def test_damaged_cifar_files_are_refused(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, {"batch.bin": content})
    with pytest.raises(RecoptError, match="not a whole number of records"):
        formats.read_cifar(tmp_path / "batch.bin")


def mat(**variables: Any) -> bytes:
    out = io.BytesIO()
    data_server.savemat(out, variables)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no matlab file" * 100,
        data_server.svhn(40)[:-5000],
        mat(X=np.zeros((32, 32, 3, 4), np.uint8)),
        mat(X=np.zeros((32, 32, 3, 4), np.uint8), y=np.ones((5, 1), np.uint8)),
        mat(X=np.zeros((32, 32, 3, 4)), y=np.ones((4, 1), np.uint8)),
    ],
)
def test_damaged_svhn_files_are_refused(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, {"train.mat": content})
    with pytest.raises(RecoptError, match="train.mat is damaged"):
        formats.read_svhn(tmp_path / "train.mat")


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("inside/file.bin")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(info)
    with pytest.raises(RecoptError, match="there is no file inside/file.bin"):
        formats.extract(tmp_path / "a.tar.gz", {"inside/file.bin": tmp_path / "out" / "file.bin"})
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    put(tmp_path, {"images": GOOD})
    (tmp_path / "images").chmod(0)
    with pytest.raises(RecoptError, match="cannot be used: .*Permission denied"):
        formats.read_idx(tmp_path / "images", (28, 28))


def test_a_disk_error_is_not_called_damage(tmp_path: Path) -> None:
    put(tmp_path, {"gzip.zip": data_server.emnist(), "in-the-way": b""})
    wanted = {"gzip/emnist-letters-test-labels-idx1-ubyte.gz": tmp_path / "in-the-way" / "file"}
    with pytest.raises(RecoptError, match="gzip.zip cannot be used: .*in-the-way"):
        formats.extract(tmp_path / "gzip.zip", wanted)
