"""The data sets: the sources and places of their files, and the reading of them into tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checking.errors import DataMissing, RecoptError, unknown
from . import formats
from .download import FetchError, Remote, fetch
from .folder import DEBIAN, data_folder, find, offline

_HEADERS = 1 << 16
"""Bytes that an IDX file may have besides its items, compressed or not."""
Labelled = tuple[Tensor, Tensor]
"""Images, uint8 (N, channels, height, width), and labels, (N,)."""


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory.

    Attributes:
        train, test: images, uint8 (N, channels, height, width), and labels, int64 (N,) from 0.
        classes: the number of classes.
        note: a remark on this copy, e.g. that it is partial; empty if it is the whole official set.
    """

    name: str
    train: Labelled
    test: Labelled
    classes: int
    note: str = ""


@dataclass(frozen=True)
class _Recipe:
    """The reader of a set from a folder, and the sizes of the official set, which no file may exceed."""

    read: Callable[[Path, tuple[int, int]], tuple[Labelled, Labelled]]
    counts: tuple[int, int]
    classes: int


def names() -> list[str]:
    """The names of the sets."""
    return sorted(_RECIPES)


def load(name: str, folder: Path | str | None = None) -> ImageSet:
    """The set ``name`` from ``folder`` (default: the data folder); what is missing is fetched into it.

    Raises:
        RecoptError: for an unknown name, a damaged file, or a missing file that cannot be fetched.
    """
    if name not in _RECIPES:
        raise unknown("data set", name, _RECIPES)
    recipe = _RECIPES[name]
    parts = recipe.read(Path(folder).expanduser() if folder is not None else data_folder(), recipe.counts)
    for x, y in parts:
        if len(x) != len(y):
            raise RecoptError(f"{name} has {len(x):,} images but {len(y):,} labels: delete its files to fetch them.")
        if int(y.max()) >= recipe.classes:
            raise RecoptError(f"{name} has labels beyond its {recipe.classes} classes: delete its files to fetch them.")
    train, test = ((x, y.long()) for x, y in parts)
    found = (len(train[1]), len(test[1]))
    note = f"{found[0]:,} of {recipe.counts[0]:,} training and {found[1]:,} of {recipe.counts[1]:,} test images"
    return ImageSet(name, train, test, recipe.classes, "" if found == recipe.counts else note)


def _provide(missing: Iterable[tuple[Remote, Path]]) -> None:
    """Fetch every file of ``missing``. Raises DataMissing, which says what to fetch by hand, and where to put it."""
    left = list(missing)
    try:
        if left and offline():
            raise FetchError("RECOPT_OFFLINE forbids fetching")
        while left:
            fetch(*left[0])
            del left[0]
    except FetchError as error:
        listed = "\n".join(f"  {remote.urls[0]}  ->  {target}  ({remote.digest})" for remote, target in left)
        raise DataMissing(
            f"Data are missing, and {error}. Fetch by hand, or set RECOPT_DATA to a folder that has them:\n{listed}"
        ) from error


_MNIST_STEMS = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def _idx_remotes(bases: tuple[str, ...], digests: tuple[str, ...]) -> dict[str, Remote]:
    pairs = zip(_MNIST_STEMS, digests, strict=True)
    return {stem: Remote(tuple(f"{base}{stem}.gz" for base in bases), digest) for stem, digest in pairs}


MNIST = _idx_remotes(
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    (
        "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
FASHION = _idx_remotes(
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    (
        "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "md5:25c81989df183df01b3e8a0aad5dffbe",
        "md5:bef4ecab320f06d8554ea6380940ec79",
        "md5:bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
EMNIST = Remote(("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",), "md5:58c8d27c78d21e728a6bc7b3cc06412e")
CIFAR10 = Remote(
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
SVHN = {
    "train_32x32.mat": Remote(
        ("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",), "md5:e26dedcc434d2e4c54c9b2d4a06d8373"
    ),
    "test_32x32.mat": Remote(
        ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",), "md5:eb5a983be6a315427106f1b164d9cef3"
    ),
}


def _labelled(paths: Sequence[Path], counts: tuple[int, int]) -> tuple[Labelled, Labelled]:
    """The sets in four IDX files: images and labels for training, then for testing."""
    most = [count for count in counts for _ in range(2)]
    read = [formats.read_idx(path, () if n % 2 else (28, 28), most[n]) for n, path in enumerate(paths)]
    return (read[0].unsqueeze(1), read[1]), (read[2].unsqueeze(1), read[3])


def _idx_set(
    folder: Path, remotes: dict[str, Remote], counts: tuple[int, int], elsewhere: tuple[Path, ...] = ()
) -> tuple[Labelled, Labelled]:
    """Four IDX files, each plain or gzipped, in ``folder`` or ``elsewhere``."""
    places = {
        stem: find(place / f"{stem}{end}" for place in (folder, *elsewhere) for end in ("", ".gz")) for stem in remotes
    }
    _provide((remotes[stem], folder / f"{stem}.gz") for stem, path in places.items() if path is None)
    return _labelled([path or folder / f"{stem}.gz" for stem, path in places.items()], counts)


def _mnist(folder: Path, counts: tuple[int, int]) -> tuple[Labelled, Labelled]:
    return _idx_set(folder / "MNIST" / "raw", MNIST, counts)


def _fashion(folder: Path, counts: tuple[int, int]) -> tuple[Labelled, Labelled]:
    return _idx_set(folder / "FashionMNIST" / "raw", FASHION, counts, (DEBIAN / "fashion-mnist",))


def _emnist(folder: Path, counts: tuple[int, int]) -> tuple[Labelled, Labelled]:
    """EMNIST Letters; the files have transposed images and labels from 1, which are corrected here."""
    raw = folder / "EMNIST" / "raw"
    stems = [f"emnist-letters-{s}-{k}-ubyte" for s in ("train", "test") for k in ("images-idx3", "labels-idx1")]
    places = {stem: find([raw / stem, raw / f"{stem}.gz", raw / "gzip" / f"{stem}.gz"]) for stem in stems}
    lacking = {f"gzip/{stem}.gz": raw / f"{stem}.gz" for stem, path in places.items() if path is None}
    if lacking:
        archives = [raw / "gzip.zip", folder / "EMNIST" / "gzip.zip", folder / "gzip.zip"]
        _unpack(EMNIST, archives, lacking, counts[0] * 28 * 28 + _HEADERS)
    found = _labelled([path or raw / f"{stem}.gz" for stem, path in places.items()], counts)
    # A label of 0, which must not occur, becomes 255 and is refused.
    train, test = ((x.transpose(2, 3).contiguous(), y - 1) for x, y in found)
    return train, test


def _cifar10(folder: Path, counts: tuple[int, int]) -> tuple[Labelled, Labelled]:
    """CIFAR-10 from any of its five training files, so that a partial copy works."""
    inside = folder / "cifar-10-batches-bin"
    train, test = [inside / f"data_batch_{n}.bin" for n in range(1, 6)], inside / "test_batch.bin"
    if not (test.is_file() and any(path.is_file() for path in train)):
        archive = "cifar-10-binary.tar.gz"
        wanted = {f"{inside.name}/{path.name}": path for path in [*train, test]}
        _unpack(CIFAR10, [folder / archive, inside / archive], wanted, counts[1] * formats.CIFAR_RECORD)
    parts = [formats.read_cifar(path, counts[0]) for path in train if path.is_file()]
    return (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])), formats.read_cifar(test, counts[1])


def _svhn(folder: Path, counts: tuple[int, int]) -> tuple[Labelled, Labelled]:
    # torchvision puts these directly into the folder it is given.
    places = {name: find([folder / "SVHN" / name, folder / "svhn" / name, folder / name]) for name in SVHN}
    _provide((SVHN[name], folder / "SVHN" / name) for name, path in places.items() if path is None)
    paths = [path or folder / "SVHN" / name for name, path in places.items()]
    train, test = (formats.read_svhn(path, most) for path, most in zip(paths, counts, strict=True))
    return train, test


def _unpack(remote: Remote, archives: list[Path], wanted: dict[str, Path], most: int) -> None:
    """Extract ``wanted``, of at most ``most`` bytes each; the archive is fetched if none of ``archives`` exists."""
    archive = find(archives)
    if archive is None:
        _provide([(remote, archives[0])])
    formats.extract(archive or archives[0], wanted, most)
    if archive is None:
        archives[0].unlink()  # downloaded here, and no longer needed


_RECIPES = {
    "mnist": _Recipe(_mnist, (60_000, 10_000), 10),
    "fashion-mnist": _Recipe(_fashion, (60_000, 10_000), 10),
    "emnist": _Recipe(_emnist, (124_800, 20_800), 26),
    "cifar10": _Recipe(_cifar10, (50_000, 10_000), 10),
    "svhn": _Recipe(_svhn, (73_257, 26_032), 10),
}
