"""Fetching over the network: broken, resumed, refused; against a server on the loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recopt.data import download
from recopt.data.download import FetchError, Remote, fetch

from .. import data_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[data_server.Server]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    served, listener = data_server.serve()
    yield served
    listener.shutdown()
    listener.server_close()


CONTENT = bytes(np.random.default_rng(1).integers(0, 256, 3_000_000, dtype=np.uint8))


def test_a_broken_transfer_is_taken_up_where_it_broke(server: data_server.Server, tmp_path: Path) -> None:
    remote = server.remote("file", CONTENT)
    server.cuts["file"] = [1_000_000, 700_000]
    assert fetch(remote, tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["", "bytes=1000000-", "bytes=1700000-"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_later_call_takes_up_what_an_earlier_one_left(
    server: data_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote = server.remote("file", CONTENT)
    monkeypatch.setattr(download, "TRIES", 1)
    server.cuts["file"] = [1_200_000]
    with pytest.raises(FetchError, match="the connection broke off"):
        fetch(remote, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file.part"]
    assert fetch(remote, tmp_path / "file").read_bytes() == CONTENT
    assert server.asked[-1] == ("file", "bytes=1200000-")


def test_a_server_without_ranges_sends_it_again(server: data_server.Server, tmp_path: Path) -> None:
    remote = server.remote("file", CONTENT)
    server.cuts["file"], server.ranges = [1_000_000], False
    assert fetch(remote, tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more", b"of another file" * 50, CONTENT[:-1] + b"?"])
def test_whatever_was_left_behind_the_result_is_right(server: data_server.Server, tmp_path: Path, left: bytes) -> None:
    remote = server.remote("file", CONTENT)
    (tmp_path / "file.part").write_bytes(left)
    assert fetch(remote, tmp_path / "file").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_wrong_digest_is_refused_and_nothing_stays(server: data_server.Server, tmp_path: Path) -> None:
    remote = server.remote("file", CONTENT)
    server.files["file"] = CONTENT[:-1] + b"?"
    with pytest.raises(FetchError, match=f"instead of {remote.digest}; it was discarded"):
        fetch(remote, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_the_next_address_is_tried(server: data_server.Server, tmp_path: Path) -> None:
    good = server.remote("file", CONTENT)
    server.files["bad"] = b"an error page"
    urls = (f"{server.base}/missing", f"{server.base}/bad", *good.urls)
    assert fetch(Remote(urls, good.digest), tmp_path / "file").read_bytes() == CONTENT
    assert [name for name, _ in server.asked] == ["missing", "bad", "file"]


def test_a_busy_server_is_asked_again_but_a_missing_file_is_not(server: data_server.Server, tmp_path: Path) -> None:
    remote = server.remote("file", CONTENT)
    server.failures["file"] = [503, 500]
    assert fetch(remote, tmp_path / "file").read_bytes() == CONTENT
    server.asked.clear()
    with pytest.raises(FetchError, match="answered 404"):
        fetch(Remote((f"{server.base}/none",), "md5:0"), tmp_path / "none")
    assert len(server.asked) == 1


def test_two_at_once_fetch_once(server: data_server.Server, tmp_path: Path) -> None:
    remote = server.remote("file", CONTENT)
    threads = [threading.Thread(target=fetch, args=(remote, tmp_path / "file")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_named(server: data_server.Server, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(FetchError, match=f"{tmp_path}/data/file could not be written"):
        fetch(server.remote("file", CONTENT), tmp_path / "data" / "file")
