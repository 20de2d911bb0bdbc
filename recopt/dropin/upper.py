"""The upper levels of a tower: a strategy that moves the coordinates of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..normalize import NORMALIZERS
from ..strategy import Params, State
from .kernel import offered
from .movers import FormulaMover, TapedMover
from .normal import normalized
from .rungs import Place
from .signals import as_tensors, finite, plain, same_kind, size
from .slot import Slot

STRIDE = 1.0
"""The farthest a guarded level moves the coordinate of a bounded domain in one step: a factor of e."""


class UpperRung:
    """A level that moves the coordinates ``indices`` of the slot ``moves``."""

    def __init__(self, place: Place, moves: Slot, indices: Sequence[int]) -> None:
        self.place, self.moves, self.indices = place, moves, list(indices)
        self.normal: State = {}
        self.counts = {"skipped": 0, "bounded": 0}
        self.kind = place.level.normalize or "none"
        formula = None
        if place.fused and moves.scalar and place.by.scalar and place.window <= 1:
            formula = offered(place.by.strategy, "formula")
        self.mover: FormulaMover | TapedMover
        if formula is not None:
            self.mover = FormulaMover(place.by, formula, len(self.indices))
        else:
            self.mover = TapedMover(place.by, self._point(), place.window, place.seed, place.window > 0)

    def _point(self) -> Params:
        found = self.moves.tensors()
        return self._cast([found[i] for i in self.indices])

    def _cast(self, items: Params) -> Params:
        """For a network that moves numbers: in the type of its weights, and beside them."""
        by = self.place.by
        return [x.to(by.coords[0]) for x in items] if self.moves.scalar and not by.scalar else items

    def recorded(self) -> int:
        """Updates since the level above stepped."""
        return self.mover.recorded

    def pull(self, cotangents: list[Any], objective: str) -> list[Any] | None:
        """The hypergradient for the level above, if its window is full."""
        if isinstance(self.mover, FormulaMover):
            return self.mover.pull(cotangents) if self.mover.recorded else None
        if not self.mover.recorded:
            return None
        self.mover.feed(as_tensors(cotangents), self.place.weight(self.mover.recorded, objective))
        if self.mover.recorded < self.place.window:
            return None
        return plain(self.mover.pull(), self.place.by.scalar)

    def length(self) -> float:
        """The norm of the recorded updates."""
        if isinstance(self.mover, FormulaMover):
            return math.sqrt(sum(u * u for u in self.mover.update))
        return float(self.mover.length()) if self.mover.updates else 0.0

    def move(self, signal: list[Any], bound: float, loss: Tensor | None) -> None:
        """Normalize ``signal``, step, bound the step, and add it to the slot."""
        kind = self.kind
        if not finite(signal):
            self.counts["skipped"] += 1
            return
        if isinstance(self.mover, FormulaMover):
            read: list[Any] = normalized(kind, signal, self.normal, bound)
            deltas: list[Any] = self.mover.step([self.moves.coords[i] for i in self.indices], read)
        else:
            read, self.normal = NORMALIZERS[kind](as_tensors(signal), self.normal, torch.tensor(bound))
            known = None if loss is None else self._cast([loss])[0]
            given = self._cast([r.clone() for r in read])
            deltas = plain(self.mover.step(self._point(), given, known, 1.0), self.moves.scalar)
        if not finite(deltas):
            self.counts["skipped"] += 1
            return
        deltas = self._bounded(deltas)
        self.moves.add(self.indices, deltas)

    def clear(self) -> None:
        """The window is closed: what was taped for it is dropped."""
        if isinstance(self.mover, TapedMover):
            self.mover.clear()

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        kind = "formula" if isinstance(self.mover, FormulaMover) else "taped"
        return {"kind": kind, "mover": self.mover.tree(), "normal": self.normal, "counts": dict(self.counts)}

    def load(self, saved: dict[str, Any], points: Params, where: str) -> None:
        """Continue from :meth:`tree`. Raises RecoptError if it does not fit."""
        same_kind("formula" if isinstance(self.mover, FormulaMover) else "taped", saved, self.place.number, where)
        self.mover.load(saved["mover"])
        self.normal, self.counts = saved["normal"], dict(saved["counts"])

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
