"""Cohorts: the tensors of a model that one mover moves together, by a kernel in place or by a taped strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.strategy import Params, State
from ..core.averages import folded, share
from ..core.normalize import NORMALIZERS
from .kernel import Kernel, Sums
from .movers import KernelMover, TapedMover
from .place import Place
from .signals import plain


class Cohort(ABC):
    """Tensors that had their first gradient at the same step.

    Attributes:
        indices: theirs in the tower.
        mover: what moves them.
        normal: the state of their level's normalizer.
        mean: of the points before the present one, ``folds`` of them, where the level keeps one (``average``).
        idle: places in ``indices`` of those that had no gradient at the last step, and stayed where they were.
    """

    mover: KernelMover | TapedMover

    def __init__(self, place: Place, indices: Sequence[int]) -> None:
        self.place, self.indices = place, list(indices)
        self.normal: State = {}
        self.idle: list[int] = []
        self.mean: Params = []
        self.folds = 0

    def of(self, parts: Sequence[Tensor]) -> Params:
        """Those of the tower's ``parts`` that are this cohort's."""
        return [parts[i] for i in self.indices]

    def awake(self, parts: Sequence[Tensor]) -> Params:
        """``parts``, one for each tensor, with zeros for the idle ones."""
        idle = set(self.idle)
        return [torch.zeros_like(p) if n in idle else p for n, p in enumerate(parts)] if idle else list(parts)

    def move(self, points: Params, grads: Sequence[Tensor | None], loss: Tensor | None, scale: float) -> None:
        """One step, in place on the tower's ``points``. Tensors without a gradient stay as they are."""
        have = [grads[i] is not None for i in self.indices]
        self.idle = [n for n, there in enumerate(have) if not there]
        if not any(have):
            return
        mine = [points[i] if there else points[i].clone() for i, there in zip(self.indices, have, strict=True)]
        known = [grads[i] for i in self.indices]
        signal = [torch.zeros_like(p) if g is None else g for g, p in zip(known, mine, strict=True)]
        kind = self.place.level.normalize or "none"
        if kind != "none":
            signal, self.normal = NORMALIZERS[kind](signal, self.normal, None)
        self._step(mine, signal, loss, scale)

    def fold(self, points: Params) -> None:
        """Take the present point, which turned out to be good, into the mean."""
        decay = self.place.level.average
        if decay is None:
            return
        weight, mine = share(decay, self.folds + 1), self.of(points)
        if weight < 1:
            torch._foreach_lerp_(self.mean, mine, weight)
        else:
            self.mean = [p.clone() for p in mine]
        self.folds += 1

    def eval_points(self, points: Params) -> Params:
        """Where the level would have each tensor used; new tensors, or ``points``."""
        mine, decay = self.of(points), self.place.level.average
        if decay is not None:
            return folded(self.mean, mine, decay, self.folds + 1)
        return self.place.by.at_present().eval_point(mine, self.mover.state)

    @abstractmethod
    def _step(self, mine: Params, signal: Params, loss: Tensor | None, scale: float) -> None:
        """Move ``mine`` in place."""

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        fused = isinstance(self.mover, KernelMover)
        return {"indices": self.indices, "fused": fused, "mover": self.mover.tree(), "normal": self.normal,
                "idle": list(self.idle), "mean": list(self.mean), "folds": self.folds}  # fmt: skip


class KernelCohort(Cohort):
    """A cohort that a kernel moves: what a level above needs of its tensors are sums."""

    mover: KernelMover

    def __init__(self, place: Place, indices: Sequence[int], kernel: Kernel, point: Params) -> None:
        super().__init__(place, indices)
        self.mover = KernelMover(place.by, kernel, point, place.moved, place.window)

    def _step(self, mine: Params, signal: Params, loss: Tensor | None, scale: float) -> None:
        self.mover.step(mine, signal, scale)

    def measure(self, points: Params, cotangents: Params) -> Sums:
        """What :meth:`feed` needs of the tensors."""
        if not self.mover.recorded:
            return {}
        return self.mover.measure(self.of(points), self.awake(self.of(cotangents)))

    def feed(self, cotangents: Params, sums: dict[str, float]) -> None:
        """What came after the recorded updates, as :meth:`measure` found it."""
        self.mover.feed(sums, self.place.weight(self.mover.recorded))

    def pull(self) -> list[Any]:
        """The hypergradient of the window, which ends."""
        return self.mover.pull()

    def last(self, points: Params) -> Params | None:
        """The last update of each tensor, if it is known."""
        found = self.mover.last(self.of(points))
        return None if found is None else self.awake(found)

    def updates(self, points: Params) -> Params:
        """All recorded updates, as far as they are known."""
        return self.last(points) or []

    def shorten(self, keep: float) -> None:
        """The last update was only ``keep`` of what the kernel made it: it is computed again from the rate."""


class TapedCohort(Cohort):
    """A cohort that a taped strategy moves."""

    mover: TapedMover

    def __init__(self, place: Place, indices: Sequence[int], point: Params, seed: int) -> None:
        super().__init__(place, indices)
        # A network sees all tensors as one, in the type of its weights; other rules see each in its own.
        self.dtype = None if place.by.scalar else place.by.like.dtype
        self.mover = TapedMover(place.by, [p.to(self.dtype or p.dtype) for p in point], seed, place.window > 0)

    def _step(self, mine: Params, signal: Params, loss: Tensor | None, scale: float) -> None:
        # The tape may hold what it is given, and both are about to change.
        held, read = ([t.to(self.dtype or t.dtype, copy=True) for t in part] for part in (mine, signal))
        known = loss if loss is None or self.dtype is None else loss.to(self.dtype)
        deltas = self.mover.step(held, read, known, scale)
        torch._foreach_add_(mine, [d.to(p.dtype) for d, p in zip(deltas, mine, strict=True)])

    def measure(self, points: Params, cotangents: Params) -> Sums:
        """No sums: it is fed the signals themselves."""
        return {}

    def feed(self, cotangents: Params, sums: dict[str, float]) -> None:
        """``cotangents`` came after the recorded updates."""
        self.mover.record.feed(self.awake(self.of(cotangents)), self.place.weight(self.mover.recorded))

    def pull(self) -> list[Any]:
        """The hypergradient of the window, which ends; numbers where the slot is scalar."""
        found = plain(self.mover.record.pull(), self.place.by.scalar)
        self.mover.forget()
        return found

    def last(self, points: Params) -> Params | None:
        """The last update of each tensor."""
        made = zip(self.mover.record.updates[-1], self.of(points), strict=True)
        return self.awake([u.detach().to(p.dtype) for u, p in made])

    def updates(self, points: Params) -> Params:
        """All recorded updates."""
        return [d for step in self.mover.record.updates for d in step]

    def shorten(self, keep: float) -> None:
        """The last update was only ``keep`` of what it is on record as."""
        self.mover.record.shorten(keep)


def cohort_of(place: Place, indices: Sequence[int], points: Params, others: int) -> KernelCohort | TapedCohort:
    """The tensors ``indices`` of a tower as a cohort, beside ``others``, in the fastest way there is for its place."""
    point, kernel = [points[i] for i in indices], place.kernel()
    if kernel is not None:
        return KernelCohort(place, indices, kernel, point)
    return TapedCohort(place, indices, point, place.seed + others)
