"""File formats: IDX (MNIST and its kin), CIFAR's binary records, SVHN's MATLAB files; members of archives."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..checking.errors import RecoptError

CIFAR_RECORD = 1 + 3 * 32 * 32
_UBYTE = 0x08
_MAT_HEADER, _MAT_COMPRESSED = 128, 15
_SLACK = 1 << 20
"""Bytes that may lie in an archive besides the wanted files, or in a MATLAB file besides the images."""
# Errors that reading a damaged compressed file can raise.
_DAMAGE = (OSError, EOFError, zlib.error, struct.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)


def damaged(path: Path, why: object) -> RecoptError:
    """The error for a file that is there but cannot be used."""
    if isinstance(why, OSError) and why.errno is not None:  # the disk's fault, not the file's
        return RecoptError(f"{path} cannot be used: {why}.")
    return RecoptError(f"{path} is damaged ({why}): delete it, and it will be fetched again.")


def _too_large(path: Path, most: int) -> RecoptError:
    return damaged(path, f"it would unpack to more than {most:,} bytes")


def read_idx(path: Path, shape: tuple[int, ...], most: int) -> Tensor:
    """The unsigned bytes of an IDX file, plain or gzipped (``.gz``): uint8 of shape (N, *shape), N at most ``most``.

    The header is two zero bytes, the type 0x08, the number of dimensions, then each dimension as a
    big-endian 32-bit number.

    Raises:
        RecoptError: if it is not such a file, or has fewer or more bytes than its header says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, rank = struct.unpack(">HBB", file.read(4))
            if (zero, kind, rank) != (0, _UBYTE, 1 + len(shape)):
                raise damaged(path, f"not an IDX file of unsigned bytes in {1 + len(shape)} dimensions")
            sizes = struct.unpack(f">{rank}I", file.read(4 * rank))
            if sizes[1:] != shape:
                raise damaged(path, f"its items are of size {list(sizes[1:])} instead of {list(shape)}")
            if sizes[0] > most:
                raise damaged(path, f"its header says {sizes[0]:,} items, and the official set has {most:,}")
            count = math.prod(sizes)
            # Ask for one byte too many, so that gzip's check sum is read as well.
            content = bytearray(file.read(count + 1))
    except _DAMAGE as error:
        raise damaged(path, error) from error
    if len(content) != count or not count:
        raise damaged(path, f"{len(content):,} bytes where its header says {count:,}" if count else "empty")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(sizes)


def read_cifar(path: Path, most: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) of a file in CIFAR-10's binary version, N at most ``most``.

    A record is a label and then the 1,024 red, green and blue values, row by row. Only the file's size gives
    their number. Raises RecoptError if that is not a whole number of records.
    """
    try:
        with path.open("rb") as file:
            content = bytearray(file.read(most * CIFAR_RECORD + 1))
    except OSError as error:
        raise damaged(path, error) from error
    if len(content) > most * CIFAR_RECORD:
        raise damaged(path, f"it has more than {most:,} records")
    if not content or len(content) % CIFAR_RECORD:
        raise damaged(path, f"{len(content):,} bytes are not a whole number of records of {CIFAR_RECORD:,}")
    records = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].clone()


def read_svhn(path: Path, most: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) of one of SVHN's ``*_32x32.mat``; label 10, the digit 0, becomes 0.

    Raises RecoptError if it is not such a file, or has more than ``most`` images.
    """
    from scipy.io import loadmat

    room = most * CIFAR_RECORD + _SLACK
    try:
        if sum(_inflated(path, room)) > room:
            raise _too_large(path, room)
        content = loadmat(path, variable_names=("X", "y"))
    except RecoptError:
        raise
    except Exception as error:  # scipy's parser raises many kinds of errors
        raise damaged(path, error) from error
    if not {"X", "y"} <= content.keys():
        raise damaged(path, "it has no variables X and y")
    x, y = content["X"], content["y"].reshape(-1)
    if x.dtype != "uint8" or x.shape != (32, 32, 3, len(y)) or not len(y) or y.dtype.kind not in "ui":
        raise damaged(path, f"X is {x.dtype} of shape {x.shape} for {len(y)} labels, not uint8 of (32, 32, 3, N)")
    # Copy into this order: in the file's, one image is scattered over the whole array.
    images = torch.from_numpy(x).permute(3, 2, 0, 1).contiguous()
    return images, torch.from_numpy(y % 10).to(torch.uint8)


def _inflated(path: Path, most: int) -> Iterator[int]:
    """The lengths of a MATLAB file's compressed elements when unpacked, as far as ``most``; scipy has no limit."""
    with path.open("rb") as file:
        order = "<" if file.read(_MAT_HEADER).endswith(b"IM") else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _MAT_COMPRESSED:
                file.seek(size, os.SEEK_CUR)
                continue
            unpack, rest, found = zlib.decompressobj(), file.read(size), 0
            while rest and found <= most:
                found += len(unpack.decompress(rest, _SLACK))
                rest = unpack.unconsumed_tail
            yield found


class _Bounded(gzip.GzipFile):
    """A gzip file that is not read beyond ``most`` bytes, not even for the name of a tar file's member."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, "rb")
        self.path, self.most = path, most

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > self.most:
            raise _too_large(self.path, self.most)
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > self.most:
            raise _too_large(self.path, self.most)
        return super().seek(offset, whence)


def extract(archive: Path, wanted: Mapping[str, Path], most: int) -> None:
    """Write the members ``wanted`` (name in the archive → target) of a ``.zip`` or gzipped tar file.

    Nothing else is unpacked, and no path of the archive is used. A file appears in its place only when whole.

    Raises:
        RecoptError: if the archive is damaged or lacks one of them, one has more than ``most`` bytes, or one cannot be
            written.
    """
    try:
        with ExitStack() as stack:
            if archive.suffix == ".zip":
                opened: zipfile.ZipFile | tarfile.TarFile = stack.enter_context(zipfile.ZipFile(archive))
            else:
                inside = stack.enter_context(_Bounded(archive, most * len(wanted) + _SLACK))
                opened = stack.enter_context(tarfile.open(fileobj=inside, mode="r:"))
            for name, target in wanted.items():
                _write(_member(opened, archive, name, most), target)
    except _DAMAGE as error:
        raise damaged(archive, error) from error


def _member(opened: zipfile.ZipFile | tarfile.TarFile, archive: Path, name: str, most: int) -> IO[bytes]:
    file: IO[bytes] | None = None
    try:
        if isinstance(opened, zipfile.ZipFile):
            size, file = opened.getinfo(name).file_size, opened.open(name)
        else:
            info = opened.getmember(name)
            # Only a regular file: a link could lead anywhere.
            size, file = info.size, opened.extractfile(info) if info.isreg() else None
    except KeyError:
        pass
    if file is None:
        raise damaged(archive, f"there is no file {name} in it")
    if size > most:
        raise damaged(archive, f"{name} in it has {size:,} bytes, more than {most:,}")
    return file


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with source, os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(source, file)
        os.chmod(name, 0o644)  # mkstemp's files are private
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
