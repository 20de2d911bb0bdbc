"""Small files in the true formats, and a server on the loopback that can misbehave: for the tests of recopt.data."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from recopt.data.download import Remote


def idx(items: np.ndarray[Any, Any]) -> bytes:
    """An IDX file of unsigned bytes."""
    header = struct.pack(f">HBB{items.ndim}I", 0, 8, items.ndim, *items.shape)
    return header + items.astype(np.uint8).tobytes()


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def mnist(train: int = 30, test: int = 20) -> dict[str, bytes]:
    """The four gzipped files; the labels go round from 0."""
    files = {}
    for split, count in (("train", train), ("t10k", test)):
        files[f"{split}-images-idx3-ubyte.gz"] = gzip.compress(idx(images(count, 28, 28, seed=count)))
        files[f"{split}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.arange(count) % 10))
    return files


def emnist(train: int = 52, test: int = 26) -> bytes:
    """gzip.zip: transposed images, labels from 1 to 26, and other sets that are not wanted."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for split, count in (("train", train), ("test", test)):
            stored = images(count, 28, 28, seed=count).transpose(0, 2, 1)
            stem = f"gzip/emnist-letters-{split}"
            archive.writestr(f"{stem}-images-idx3-ubyte.gz", gzip.compress(idx(stored)))
            archive.writestr(f"{stem}-labels-idx1-ubyte.gz", gzip.compress(idx(np.arange(count) % 26 + 1)))
        archive.writestr("gzip/emnist-digits-train-images-idx3-ubyte.gz", b"another set")
        archive.writestr("../outside", b"an attempt")
    return out.getvalue()


def cifar_file(count: int, seed: int = 0) -> bytes:
    """Records: a label, then 3 x 32 x 32 values."""
    labels = (np.arange(count) % 10).astype(np.uint8)[:, None]
    return np.hstack([labels, images(count, 3072, seed=seed)]).tobytes()


def cifar(each: int = 4, test: int = 3) -> bytes:
    """cifar-10-binary.tar.gz, with members that are not wanted."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        content = {f"cifar-10-batches-bin/data_batch_{n}.bin": cifar_file(each, n) for n in range(1, 6)}
        content["cifar-10-batches-bin/test_batch.bin"] = cifar_file(test, 9)
        content["cifar-10-batches-bin/readme.html"] = b"read me"
        content["../outside"] = b"an attempt"
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def svhn(count: int, seed: int = 0) -> bytes:
    """A MATLAB file: X of 32 x 32 x 3 x N, y of N x 1 with the labels 1 to 10."""
    out = io.BytesIO()
    pixels = images(count, 32, 32, 3, seed=seed).transpose(1, 2, 3, 0)
    savemat(out, {"X": pixels, "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]}, do_compression=True)
    return out.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


@dataclass
class Server:
    """What is served, how, and what was asked.

    Attributes:
        files: contents by name.
        cuts: per name, after how many bytes of an answer the connection is cut, for one answer each.
        failures: per name, status codes to answer with before all else.
        ranges: whether a range that is asked for is served.
        asked: (name, range header) of every request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    base: str = ""

    def remote(self, name: str, content: bytes | None = None) -> Remote:
        """Serve ``content`` as ``name`` (or what is served already) with its true digest."""
        if content is not None:
            self.files[name] = content
        return Remote((f"{self.base}/{name}",), md5(self.files[name]))

    def remotes(self, files: Mapping[str, bytes], end: str = "") -> dict[str, Remote]:
        """The same for many; the names returned are without their ``end``."""
        return {name.removesuffix(end): self.remote(name, content) for name, content in files.items()}


def handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
            server.asked.append((name, wanted))
            if server.failures.get(name):
                self.send_error(server.failures[name].pop(0))
                return
            if name not in server.files:
                self.send_error(404)
                return
            content, start = server.files[name], 0
            if wanted and server.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = server.cuts[name].pop(0) if server.cuts.get(name) else len(content)
            self.wfile.write(content[start : start + cut])

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def serve() -> tuple[Server, http.server.ThreadingHTTPServer]:
    """A server on a free port of the loopback, running until ``shutdown``."""
    server = Server()
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    server.base = f"http://127.0.0.1:{listener.server_port}"
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    return server, listener


def fill(place: Path) -> None:
    """A data folder at ``place`` with a small copy of every set."""
    for inside in ("MNIST", "FashionMNIST"):
        put(place / inside / "raw", mnist(300, 40))
    put(place / "EMNIST" / "raw", {"gzip.zip": emnist(312, 52)})
    records = {
        "data_batch_1.bin": cifar_file(60),
        "data_batch_2.bin": cifar_file(40, 1),
        "test_batch.bin": cifar_file(30),
    }
    put(place / "cifar-10-batches-bin", records)
    put(place / "SVHN", {"train_32x32.mat": svhn(100), "test_32x32.mat": svhn(30)})


def put(place: Path, files: Mapping[str, bytes]) -> None:
    """Files at ``place``, by name."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
