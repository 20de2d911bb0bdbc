"""The upper levels of a tower: a strategy that moves the coordinates of another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contracts.strategy import Params, State
from ..core.normalize import NORMALIZERS
from .kernel import Formula, offered
from .movers import FormulaMover, TapedMover
from .normal import normalized
from .place import Place
from .signals import Pulled, as_tensors, finite, plain, same_kind, size
from .slot import Slot

STRIDE = 1.0
"""The farthest a guarded level moves the coordinate of a bounded domain in one step: a factor of e."""


class UpperRung(ABC):
    """A level that moves the coordinates ``indices`` of the slot ``moves``."""

    kind: ClassVar[str]
    """What it is called in what :meth:`tree` gives."""
    mover: FormulaMover | TapedMover

    def __init__(self, place: Place, moves: Slot, indices: Sequence[int]) -> None:
        self.place, self.moves, self.indices = place, moves, list(indices)
        self.normal: State = {}
        self.normalize = place.level.normalize or "none"
        self.counts = {"skipped": 0, "bounded": 0}

    def move(self, signal: list[Any], bound: float, loss: Tensor | None) -> None:
        """Normalize ``signal``, step, bound the step, and add it to the slot."""
        deltas = self._deltas(signal, bound, loss) if finite(signal) else None
        if deltas is None or not finite(deltas):
            self.counts["skipped"] += 1
            return
        self.moves.add(self.indices, self._bounded(deltas))

    @abstractmethod
    def _deltas(self, signal: list[Any], bound: float, loss: Tensor | None) -> list[Any]:
        """What the strategy makes of ``signal``: numbers or tensors, as the slot has them."""

    def _bounded(self, deltas: list[Any]) -> list[Any]:
        trust = self.place.level.trust
        if trust is not None:
            # As in the engine, a hyperparameter's coordinate counts as 1: its own size says nothing.
            counted = [self.moves.coords[i] if isinstance(d, Tensor) and d.ndim else 1.0
                       for i, d in zip(self.indices, deltas, strict=True)]  # fmt: skip
            limit, length = trust * math.sqrt(sum(size([c]) ** 2 for c in counted)), size(deltas)
            if length > limit:
                deltas = [d * (limit / length) for d in deltas]
        if self.place.guard and self.moves.scalar:
            for k, i in enumerate(self.indices):
                if abs(deltas[k]) > STRIDE and self.moves.bounded[i]:
                    deltas[k] = math.copysign(STRIDE, deltas[k])
                    self.counts["bounded"] += 1
        return deltas

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"kind": self.kind, "mover": self.mover.tree(), "normal": self.normal, "counts": dict(self.counts)}

    def load(self, saved: dict[str, Any], points: Params, where: str) -> None:
        """Continue from :meth:`tree`. Raises RecoptError if it does not fit."""
        same_kind(self.kind, saved, self.place.number, where)
        self.mover.load(saved["mover"])
        self.normal, self.counts = saved["normal"], dict(saved["counts"])


class FormulaRung(UpperRung):
    """A level whose strategy has closed forms on numbers, over a slot that is made of numbers."""

    kind = "formula"
    mover: FormulaMover

    def __init__(self, place: Place, moves: Slot, indices: Sequence[int], formula: Formula) -> None:
        super().__init__(place, moves, indices)
        self.mover = FormulaMover(place.by, formula, len(self.indices))

    def _deltas(self, signal: list[Any], bound: float, loss: Tensor | None) -> list[Any]:
        read = normalized(self.normalize, signal, self.normal, bound)
        return self.mover.step([self.moves.coords[i] for i in self.indices], read)

    def pull(self, signal: list[Any]) -> Pulled | None:
        """The hypergradient for the level above, if it has made an update that ``signal`` came after."""
        if not self.place.window or not self.mover.recorded:
            return None
        bound = self.mover.length() * size(signal) if self.place.cosine else 0.0
        return Pulled(self.mover.pull(signal), bound)


class TapedRung(UpperRung):
    """A level whose strategy is taped."""

    kind = "taped"
    mover: TapedMover

    def __init__(self, place: Place, moves: Slot, indices: Sequence[int]) -> None:
        super().__init__(place, moves, indices)
        self.mover = TapedMover(place.by, self._point(), place.seed, place.window > 0)

    def _point(self) -> Params:
        found = self.moves.tensors()
        return self._cast([found[i] for i in self.indices])

    def _cast(self, items: Params) -> Params:
        """For a network that moves numbers: in the type of its weights, and beside them."""
        by = self.place.by
        return [x.to(by.like) for x in items] if self.moves.scalar and not by.scalar else items

    def _deltas(self, signal: list[Any], bound: float, loss: Tensor | None) -> list[Any]:
        read, self.normal = NORMALIZERS[self.normalize](as_tensors(signal), self.normal, torch.tensor(bound))
        known = None if loss is None else self._cast([loss])[0]
        given = self._cast([r.clone() for r in read])
        return plain(self.mover.step(self._point(), given, known, 1.0), self.moves.scalar)

    def pull(self, signal: list[Any]) -> Pulled | None:
        """Note that ``signal`` came after the recorded updates; the hypergradient, if the window is full."""
        place, record = self.place, self.mover.record
        if not place.window or not self.mover.recorded:
            return None
        bound = record.length() * size(signal) if place.cosine else 0.0
        record.feed(as_tensors(signal), place.weight(self.mover.recorded))
        if self.mover.recorded < place.window:
            return None
        found = plain(record.pull(), place.by.scalar)
        self.mover.forget()
        return Pulled(found, bound)


def upper_rung(place: Place, moves: Slot, indices: Sequence[int]) -> FormulaRung | TapedRung:
    """A level that moves the coordinates ``indices`` of ``moves``, in the fastest way there is for its place."""
    formula = None
    if place.fused and moves.scalar and place.by.scalar and place.window <= 1:
        formula = offered(place.by.strategy, "formula")
    return TapedRung(place, moves, indices) if formula is None else FormulaRung(place, moves, indices, formula)
