"""The artifacts of a run in a store, wherever they are."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from .store import Store


def has(store: Store, run: str, local: Path | None, path: str) -> bool:
    """True if ``run`` has an artifact at ``path``; ``local`` is the folder of its artifacts, if they are here."""
    if local is not None:
        return (local / path).exists()
    return any(item.path == path for item in store.client.list_artifacts(run, path.rpartition("/")[0] or None))


def scratch() -> Path:
    """A temporary folder for this process alone, since the processes of one training fetch the same files at once."""
    folder = tempfile.mkdtemp(prefix="recopt-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def download(store: Store, run: str, path: str, dest: Path) -> Path:
    """Fetch the artifact of ``run`` at ``path`` into ``dest``; its place there."""
    dest.mkdir(parents=True, exist_ok=True)
    return Path(store.client.download_artifacts(run, path, str(dest)))
