"""The trace: every recorded value of one run, in columns, in memory and in one file.

At every level, steps count the evaluations of the task so far, so that all curves of a run share one
axis. Level 0 is the task, 1 the innermost level.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..checking.digests import digest
from ..checking.errors import Damaged, RecoptError
from .thinning import Floats, Ints, Thinning

if TYPE_CHECKING:
    from torch import Tensor

_PENDING_ROWS = 1024  # rows between two conversions, each of which waits for the device once
_OWN_STORAGE = 4096  # bytes: a scalar that is a view into more is copied, so that the rest can be freed


class Points(NamedTuple):
    """Consecutive points of one column: ``steps`` and ``values`` have shape (n,)."""

    level: int
    key: str
    steps: Ints
    values: Floats


@dataclass
class _Chunk:
    steps: Ints
    columns: list[NDArray[np.floating[Any]]]  # float32 where that loses nothing, else float64

    def rows(self, mask: NDArray[np.bool_] | slice) -> _Chunk:
        return _Chunk(self.steps[mask], [column[mask] for column in self.columns])

    def joined(self, other: _Chunk) -> _Chunk:
        pairs = zip(self.columns, other.columns, strict=True)
        return _Chunk(np.concatenate([self.steps, other.steps]), [np.concatenate(pair) for pair in pairs])


@dataclass
class _Rows:
    """All rows of one level that have the same keys; one column of steps serves them all."""

    keys: tuple[str, ...]
    pending: list[tuple[int, tuple[float | Tensor, ...]]] = field(default_factory=list)
    chunks: list[_Chunk] = field(default_factory=list)
    drained: int = 0

    def convert(self) -> None:
        """Turn pending rows into arrays. Chunks merge like the digits of a binary counter: cheap at any length."""
        if not self.pending:
            return
        flat = _floats([value for _, row in self.pending for value in row]).reshape(len(self.pending), len(self.keys))
        steps = np.array([step for step, _ in self.pending], np.int64)
        self.chunks.append(_Chunk(steps, [_narrow(flat[:, i]) for i in range(len(self.keys))]))
        self.pending = []
        while len(self.chunks) > 1 and len(self.chunks[-2].steps) <= 2 * len(self.chunks[-1].steps):
            last = self.chunks.pop()
            self.chunks[-1] = self.chunks[-1].joined(last)

    def column(self, key: str, start: int = 0) -> tuple[Ints, Floats]:
        """Steps and values of ``key`` from row ``start`` on."""
        index, steps, values = self.keys.index(key), [np.empty(0, np.int64)], [np.empty(0)]
        for chunk in self.chunks:
            if start < len(chunk.steps):
                steps.append(chunk.steps[start:])
                values.append(chunk.columns[index][start:].astype(np.float64))
            start = max(0, start - len(chunk.steps))
        return np.concatenate(steps), np.concatenate(values)


@dataclass
class _Drained:
    """A column's state in :meth:`Trace.drain`: the last point seen, and the step of the last point given."""

    step: int
    value: float
    given: int


class Trace:
    """The columns of one run: for each level and key, steps and values.

    A million steps of thirty keys take about 130 MB where the values are float32, else 250 MB.

    Args:
        total: the number of steps expected, if known; spreads the points that :meth:`drain` gives evenly.
        limit: the approximate number of points of each column that :meth:`drain` gives.
    """

    def __init__(self, total: int | None = None, limit: int = 2000) -> None:
        self.thinning = Thinning(limit, total)
        self._rows: dict[tuple[int, tuple[str, ...]], _Rows] = {}
        self._drained: dict[tuple[int, str], _Drained] = {}

    def add(self, level: int, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Record ``values`` of ``level`` at ``step``, which must not be below the last one of these keys.

        Tensors are 0-dimensional and on any device; they are kept, detached, and converted in bulk
        later, so that this never waits for the device. They must not be modified afterwards.

        Raises:
            ValueError: for a tensor that is not 0-dimensional.
        """
        keys = tuple(values)
        if not keys:
            return
        rows = self._rows.get((level, keys))
        if rows is None:
            rows = self._rows[level, keys] = _Rows(keys)
        rows.pending.append((step, tuple([v if type(v) is float else _kept(k, v) for k, v in values.items()])))
        if len(rows.pending) >= _PENDING_ROWS:
            rows.convert()

    def keys(self) -> list[tuple[int, str]]:
        """Every (level, key) that has points, levels ascending, keys in the order of their first points."""
        found = {(level, key): None for level, keys in self._rows for key in keys}
        return sorted(found, key=lambda pair: pair[0])

    def series(self, level: int, key: str) -> tuple[Ints, Floats]:
        """Steps (n,) int64, ascending, and values (n,) float64 of one column; empty if it has no points."""
        return self._column(level, key, lambda rows: 0)

    def drain(self, last: bool = False) -> list[Points]:
        """The new points since the last call, thinned to about ``limit`` a column over the whole run.

        The first point of every column is given; with ``last`` (at a run's end), the latest too. After
        :meth:`truncate` or loading, it starts from the beginning: a tracker skips the points that its store has.
        """
        news = [self._news(level, key) for level, key in self.keys()]
        for rows in self._rows.values():
            rows.drained = sum(len(chunk.steps) for chunk in rows.chunks)
        if last:
            for (level, key), seen in self._drained.items():
                if seen.given < seen.step:
                    news.append(Points(level, key, np.array([seen.step], np.int64), np.array([seen.value])))
                    seen.given = seen.step
        return [points for points in news if len(points.steps)]

    def lengths(self) -> list[list[Any]]:
        """The current length of every column, as plain lists, for :meth:`truncate`."""
        return [
            [level, list(keys), sum(len(chunk.steps) for chunk in rows.chunks) + len(rows.pending)]
            for (level, keys), rows in self._rows.items()
        ]

    def truncate(self, lengths: Sequence[Sequence[Any]]) -> None:
        """Drop every point recorded after :meth:`lengths` gave ``lengths``; a resumed run records them again."""
        wanted = {(level, tuple(keys)): count for level, keys, count in lengths}
        for name, table in self._rows.items():
            table.convert()
            left = wanted.get(name, 0)
            for number, chunk in enumerate(table.chunks):
                table.chunks[number] = chunk.rows(slice(max(0, left)))
                left -= len(chunk.steps)
            table.drained = 0
        self._rows = {name: rows for name, rows in self._rows.items() if wanted.get(name, 0)}
        self._drained = {}

    def _news(self, level: int, key: str) -> Points:
        steps, values = self._column(level, key, lambda rows: rows.drained)
        seen = self._drained.get((level, key))
        mask = self.thinning.keep(steps, None if seen is None else seen.step)
        if len(steps):
            given = int(steps[mask][-1]) if mask.any() else cast(_Drained, seen).given
            self._drained[level, key] = _Drained(int(steps[-1]), float(values[-1]), given)
        return Points(level, key, steps[mask], values[mask])

    def _column(self, level: int, key: str, start: Callable[[_Rows], int]) -> tuple[Ints, Floats]:
        parts = []
        for (at, keys), rows in self._rows.items():
            if at == level and key in keys:
                rows.convert()
                parts.append(rows.column(key, start(rows)))
        if not parts:
            return np.empty(0, np.int64), np.empty(0)
        steps, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        if len(parts) > 1:
            order = np.argsort(steps, kind="stable")
            steps, values = steps[order], values[order]
        return steps, values


def save_trace(trace: Trace, path: Path) -> None:
    """Write the whole trace to ``path``, atomically: a reader sees the old file or the new one.

    The file is an ``.npz`` of plain arrays, without pickle: ``level<n>/rows<m>/steps`` (int64) and, for
    each key, ``level<n>/rows<m>/values/<key>`` (float32 where that is exact, else float64).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                arrays = dict(_arrays(trace))
                archive.comment = _digest(arrays)
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load_trace(path: Path, total: int | None = None) -> Trace:
    """The trace saved at ``path``; ``total`` as for :class:`Trace`.

    Raises:
        RecoptError: if there is no such file; Damaged if it is not as :func:`save_trace` wrote it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
            whole = archive.comment == _digest(arrays)
    except FileNotFoundError:
        raise RecoptError(f"There is no trace at {path}.") from None
    except Exception as why:  # damage makes readers of archives raise anything
        raise Damaged(f"{path} is damaged, or no trace of recopt ({why}).") from why
    if not whole:
        raise Damaged(f"{path} is damaged: what it holds is not what was written.")
    trace, columns = Trace(total), dict[str, dict[str, NDArray[Any]]]()
    for name, array in arrays.items():
        level, rows, column = name.split("/", 2)
        columns.setdefault(f"{level}/{rows}", {})[column] = array
    for where, values in columns.items():
        steps = values.pop("steps")
        at = int(where.partition("/")[0].removeprefix("level"))
        keys = tuple(key.removeprefix("values/") for key in values)
        trace._rows[at, keys] = _Rows(keys, chunks=[_Chunk(steps, list(values.values()))])
    return trace


def _digest(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    return digest(
        (f"{name} {array.dtype} {array.shape}", array.reshape(-1).view(np.uint8)) for name, array in arrays.items()
    ).encode()


def _arrays(trace: Trace) -> Iterator[tuple[str, NDArray[Any]]]:
    for number, ((level, keys), rows) in enumerate(trace._rows.items()):
        rows.convert()
        where = f"level{level}/rows{number}"
        yield f"{where}/steps", np.concatenate([chunk.steps for chunk in rows.chunks])
        for index, key in enumerate(keys):
            yield f"{where}/values/{key}", np.concatenate([chunk.columns[index] for chunk in rows.chunks])


def _kept(key: str, value: float | Tensor) -> float | Tensor:
    detach = getattr(value, "detach", None)
    if detach is None:
        return float(value)
    scalar: Tensor = detach()
    if scalar.dim():
        raise ValueError(f"{key} has shape {tuple(scalar.shape)}: a trace keeps 0-dimensional values.")
    return scalar.clone() if scalar.untyped_storage().nbytes() > _OWN_STORAGE else scalar


def _floats(values: list[float | Tensor]) -> Floats:
    """``values`` as float64, with one transfer for each device and dtype among them."""
    out = np.empty(len(values))
    groups: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        if isinstance(value, float):
            out[index] = value
        else:
            groups.setdefault((value.device, value.dtype), []).append(index)
    if groups:
        import torch  # here, since reading and drawing a trace need no torch

        for indices in groups.values():
            out[indices] = torch.stack([cast("Tensor", values[i]) for i in indices]).cpu().double().numpy()
    return out


def _narrow(values: Floats) -> NDArray[np.floating[Any]]:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), values, equal_nan=True) else values.copy()
