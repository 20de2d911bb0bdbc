"""Reading the formats: whatever is wrong with a file, it is refused by name."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recopt.checking.errors import RecoptError
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
        formats.read_idx(path, (28, 28), 6)


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-20], lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], lambda b: b"no gzip" + b]
)
def test_damaged_gzip_is_refused(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(spoil(gzip.compress(GOOD)))
    with pytest.raises(RecoptError, match="is damaged"):
        formats.read_idx(path, (28, 28), 6)


@pytest.mark.parametrize("content", [b"", data_server.cifar_file(3)[:-1]])
def test_damaged_cifar_files_are_refused(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, {"batch.bin": content})
    with pytest.raises(RecoptError, match="not a whole number of records"):
        formats.read_cifar(tmp_path / "batch.bin", 3)


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
        formats.read_svhn(tmp_path / "train.mat", 40)


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("inside/file.bin")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(info)
    with pytest.raises(RecoptError, match="there is no file inside/file.bin"):
        formats.extract(tmp_path / "a.tar.gz", {"inside/file.bin": tmp_path / "out" / "file.bin"}, 10)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    put(tmp_path, {"images": GOOD})
    (tmp_path / "images").chmod(0)
    with pytest.raises(RecoptError, match="cannot be used: .*Permission denied"):
        formats.read_idx(tmp_path / "images", (28, 28), 6)


def test_a_disk_error_is_not_called_damage(tmp_path: Path) -> None:
    put(tmp_path, {"gzip.zip": data_server.emnist(), "in-the-way": b""})
    wanted = {"gzip/emnist-letters-test-labels-idx1-ubyte.gz": tmp_path / "in-the-way" / "file"}
    with pytest.raises(RecoptError, match="gzip.zip cannot be used: .*in-the-way"):
        formats.extract(tmp_path / "gzip.zip", wanted, 1 << 20)


# --- small files that unpack to much more than the official ones ---

ZEROS = 1 << 24
TIMES = 64
BOMB = gzip.compress(bytes(ZEROS), 1) * TIMES
"""A gigabyte of zeros as a gzip file of several members."""


def inflating() -> bytes:
    """A gigabyte of zeros as one deflate stream, without its end."""
    press = zlib.compressobj(1)
    start = press.compress(bytes(ZEROS)) + press.flush(zlib.Z_FULL_FLUSH)
    return start + (press.compress(bytes(ZEROS)) + press.flush(zlib.Z_FULL_FLUSH)) * TIMES


def tar_of(*members: tuple[str, int, bytes], pax: int = 0) -> bytes:
    """A gzipped tar file; each member's header has a size of its own choice."""
    out = io.BytesIO()
    for name, size, content in members:
        info = tarfile.TarInfo(name)
        info.size = size
        out.write(info.tobuf(tarfile.GNU_FORMAT) + content)
    if pax:
        info = tarfile.TarInfo("././@PaxHeader")
        info.type, info.size = tarfile.XHDTYPE, pax
        out.write(info.tobuf(tarfile.GNU_FORMAT))
    return gzip.compress(out.getvalue()) + (BOMB if pax else b"")


def zip_of(size: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/file.bin", bytes(size))
    return out.getvalue()


def mat_of(stream: bytes) -> bytes:
    return mat(X=np.zeros(1))[:128] + struct.pack("<II", 15, len(stream)) + stream


def idx_header(items: int) -> bytes:
    return struct.pack(">HBBIII", 0, 8, 3, items, 28, 28)


BOMBS: dict[str, tuple[bytes, str, str]] = {
    "header.gz": (gzip.compress(idx_header(2**32 - 1)), "read_idx(path, (28, 28), 60000)", "4,294,967,295 items"),
    "header": (idx_header(2**32 - 1), "read_idx(path, (28, 28), 60000)", "the official set has 60,000"),
    "longer.gz": (gzip.compress(idx_header(6)) + BOMB, "read_idx(path, (28, 28), 60000)", "4,705 bytes where"),
    "batch.bin": (bytes(1 << 26), "read_cifar(path, 100)", "more than 100 records"),
    "train.mat": (mat_of(inflating()), "read_svhn(path, 100)", "more than 1,355,876 bytes"),
    "a.zip": (zip_of(1 << 26), "extract(path, {'a/file.bin': path.with_name('out')}, 1000)", "has 67,108,864 bytes"),
    "a.tar.gz": (
        tar_of(("a/file.bin", 1 << 26, b"")), "extract(path, {'a/file.bin': path.with_name('out')}, 1000)",
        "more than 1,049,576 bytes",
    ),
    "other.tar.gz": (
        tar_of(("b", 1 << 40, b"")) + BOMB, "extract(path, {'a/file.bin': path.with_name('out')}, 1000)",
        "more than 1,049,576 bytes",
    ),
    "pax.tar.gz": (
        tar_of(pax=1 << 33), "extract(path, {'a/file.bin': path.with_name('out')}, 1000)", "more than 1,049,576 bytes",
    ),
}  # fmt: skip
LIMITED = """
import resource, sys
from pathlib import Path
import scipy.io
from recopt.checking.errors import RecoptError
from recopt.data.formats import extract, read_cifar, read_idx, read_svhn
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 28),) * 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21,) * 2)
for line in sys.stdin.read().splitlines():
    name, call = line.split("\\t")
    path = Path(name)
    try:
        eval(call)
    except RecoptError as why:
        print(why)
"""


def test_bombs_are_refused_within_little_memory_and_disk(tmp_path: Path) -> None:
    put(tmp_path, {name: content for name, (content, _, _) in BOMBS.items()})
    asked = "\n".join(f"{tmp_path / name}\t{call}" for name, (_, call, _) in BOMBS.items())
    done = subprocess.run([sys.executable, "-c", LIMITED], input=asked, capture_output=True, text=True, check=True)
    for line, (name, (_, _, message)) in zip(done.stdout.splitlines(), BOMBS.items(), strict=True):
        assert line.startswith(f"{tmp_path / name} is damaged (")
        assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(BOMBS)
