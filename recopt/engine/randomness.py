"""Random numbers that models draw from torch's global generators (dropout …): each run has its own.

Strategies and data have generators of their own; a model has none that could be given to it. So a run lends torch's
global generators for each of its steps, and whatever else runs in the process neither sees nor disturbs that. They
are one for all threads, so runs in several threads step one after the other; to step at the same time they need
processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from ..levels.state import RunState

_LENT = threading.RLock()
"""Held while torch's global generators are lent."""


class Stream:
    """The random numbers of an engine's models, as a context: while it is entered, torch's global generators give them.

    Between two steps the place in the stream is in the run's state. It is what a model draws on the CPU and, if the
    run's device is a CUDA one, what it draws there.
    """

    def __init__(self, device: torch.device, home: Callable[[], RunState]) -> None:
        self._home, self._generators = home, _generators(device)
        self._outside: Sequence[Tensor] = []

    def __enter__(self) -> None:
        _LENT.acquire()
        self._outside = _read(self._generators)
        _write(self._generators, self._home().rng)

    def __exit__(self, *why: object) -> None:
        self._home().rng = _read(self._generators)
        _write(self._generators, self._outside)
        _LENT.release()

    def place(self) -> list[Tensor]:
        """The place in the stream; while it is entered."""
        return _read(self._generators)

    def of(self, seed: int) -> list[Tensor]:
        """The place at which a stream of another seed begins."""
        return [Generator(g.device).manual_seed(seed).get_state() for g in self._generators]

    def go(self, place: Sequence[Tensor]) -> None:
        """Go on from ``place``; while it is entered."""
        _write(self._generators, place)


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Torch's global generators begin at ``seed`` (None: they go on), and are put back in the end."""
    generators = _generators(device)
    with _LENT:
        before = _read(generators)
        try:
            if seed is not None:
                _seed(seed, device, generators)
            yield
        finally:
            _write(generators, before)


@contextmanager
def undone_if_it_fails(device: torch.device) -> Iterator[None]:
    """Torch's global generators are put back if an error passes through."""
    generators = _generators(device)
    before = _read(generators)
    try:
        yield
    except Exception:
        _write(generators, before)
        raise


class Draws:
    """The place of torch's global generators when this is made."""

    def __init__(self, device: torch.device) -> None:
        self._generators = _generators(device)
        self._before = _read(self._generators)

    def any(self) -> bool:
        """True if something was drawn since."""
        now = _read(self._generators)
        return not all(torch.equal(a, b) for a, b in zip(self._before, now, strict=True))

    def undo(self) -> None:
        """Go back there."""
        _write(self._generators, self._before)


def _generators(device: torch.device) -> list[Generator]:
    """The CPU's, and that of ``device`` if it is a CUDA one."""
    if device.type != "cuda":
        return [torch.default_generator]
    torch.cuda.init()
    number = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[number]]


def _seed(seed: int, device: torch.device, generators: Sequence[Generator]) -> None:
    if device.type not in ("cpu", "cuda"):  # whose generator cannot be put back: it may begin alike at least
        torch.manual_seed(seed)
    for generator in generators:
        generator.manual_seed(seed)


def _read(generators: Sequence[Generator]) -> list[Tensor]:
    return [generator.get_state() for generator in generators]


def _write(generators: Sequence[Generator], states: Sequence[Tensor]) -> None:
    # A run may be resumed on another kind of device than it was on.
    for generator, state in zip(generators, states, strict=False):
        generator.set_state(state.cpu())
