"""Damaged bytes: copies of what a run saves, with flipped, zeroed, random or missing bytes, are read again.

    python benchmarks/damage.py [--copies 1000] [--seed 0]

Counts, for each kind of file, how many copies are refused in a sentence, how many are read as what was written (bytes
that nobody reads, such as the times in an archive), as something else, and how many end in another error.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recopt import RecoptError
from recopt.engine import checkpoint
from recopt.running.checkpoints import CHECKPOINT, TRACE
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session
from recopt.stacks.exported import STACK, VALUES, read_folder
from recopt.tracking.trace import load_trace

FILES = {CHECKPOINT: ".", TRACE: ".", STACK: "export", VALUES: "export"}
"""The files, with their folders below the run's."""


def damaged(whole: bytes, seed: int) -> Iterator[bytes]:
    """Copies of ``whole`` with one flipped bit, a zeroed or a random stretch, or the end cut off."""
    rng = random.Random(seed)
    while True:
        copy, at, length = bytearray(whole), rng.randrange(len(whole)), rng.choice([1, 1, 16, 300])
        kind = rng.choice(["flip", "flip", "zero", "noise", "cut"])
        if kind == "flip":
            copy[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del copy[at:]
        else:
            stretch = slice(at, min(at + length, len(copy)))
            size = stretch.stop - stretch.start
            copy[stretch] = bytes(size) if kind == "zero" else rng.randbytes(size)
        if copy != whole:
            yield bytes(copy)


def content(folder: Path, name: str) -> object:
    """All that is read from a file, to be compared."""
    if name == CHECKPOINT:
        return checkpoint._open(folder / name)
    if name == TRACE:
        trace = load_trace(folder / name)
        return {key: trace.series(*key) for key in trace.keys()}  # noqa: SIM118 - not a mapping
    found = read_folder(folder)
    return found.manifest.model_copy(update={"digests": {}}), found.values


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def damage(source: Path, name: str, place: Path, copies: int, seed: int) -> Counter[str]:
    """How damaged copies of the file ``name`` in the folder ``source`` are read, in the folder ``place``."""
    for file in source.glob("*.*"):
        shutil.copy(file, place)
    whole, expected, found = (place / name).read_bytes(), content(place, name), Counter[str]()
    for _, copy in zip(range(copies), damaged(whole, seed), strict=False):
        (place / name).write_bytes(copy)
        try:
            same = equal(content(place, name), expected)
        except RecoptError as why:
            found["refused" if "\n" not in str(why) else "refused in several lines"] += 1
        except Exception as why:
            found[f"ended in {type(why).__name__}"] += 1
        else:
            found["the same is read" if same else "something else is read"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("copies", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        made = plan("quadratic", "adam/hypergradient/annealing", steps=30, settings=["level3.every=6"], measure=10)
        folder = Session(made, RunOptions(root=Path(root))).run().folder
        assert folder is not None
        for name, below in FILES.items():
            (place := Path(root) / name.replace(".", "-")).mkdir()
            print(name, dict(damage(folder / below, name, place, given.copies, given.seed)), flush=True)


if __name__ == "__main__":
    main()
