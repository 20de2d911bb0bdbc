"""The lowest levels of a tower, which move a model's tensors, and what every level knows of its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..errors import RecoptError
from ..level import Level
from ..normalize import NORMALIZERS
from ..strategy import Params, State
from .kernel import Kernel, Sums, offered
from .movers import KernelMover, TapedMover
from .shards import Shards
from .signals import plain, same_kind
from .slot import Slot

FLOOR = 0.01
"""What counts as the root mean square of a model's tensors where it is smaller (they may start at zero)."""


@dataclass
class Place:
    """Where a level stands: its spec, its slot, the window of the levels above it (0: none), if they read cosines,
    and how the model is split over processes."""

    number: int
    level: Level
    by: Slot
    window: int
    seed: int
    fused: bool
    guard: bool
    cosine: bool = False
    shards: Shards = field(default_factory=Shards)

    def weight(self, recorded: int, objective: str) -> float:
        """∂J/∂f_t for the loss that came after ``recorded`` updates of a window."""
        if objective == "last":
            return 1.0 if recorded == self.window else 0.0
        return 1.0 / self.window if objective == "mean" else 1.0


@dataclass
class Cohort:
    """Tensors that had their first gradient at the same step: their indices in the tower, and a mover."""

    indices: list[int]
    mover: KernelMover | TapedMover
    normal: State = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    """Places in ``indices`` of tensors that had no gradient at the last step, and stayed where they were."""

    def without_idle(self, parts: Sequence[Tensor]) -> Params:
        """``parts``, one for each tensor, with zeros for the idle ones."""
        idle = set(self.idle)
        return [torch.zeros_like(p) if n in idle else p for n, p in enumerate(parts)] if idle else list(parts)


class TaskRung:
    """A level that moves the model."""

    def __init__(self, place: Place, indices: Sequence[int]) -> None:
        self.place, self.indices = place, list(indices)
        self.cohorts: list[Cohort] = []
        self.seen: set[int] = set()
        self.moved: frozenset[str] = frozenset()
        self.rate: int | None = None

    def admit(self, points: Params, grads: Sequence[Tensor | None]) -> None:
        """Make a cohort of those tensors that have a gradient for the first time."""
        fresh = [i for i in self.indices if grads[i] is not None and i not in self.seen]
        if fresh:
            self.seen.update(fresh)
            self.cohorts.append(Cohort(fresh, self._mover([points[i] for i in fresh])))

    def closed(self) -> Kernel | None:
        """The kernel of the strategy, if it can be used here: without one the strategy is taped."""
        place = self.place
        kernel = offered(place.by.strategy, "kernel") if place.fused and place.by.scalar else None
        short = place.window <= 1 or (getattr(kernel, "linear", False) and self.moved == {"lr"} and not place.cosine)
        return kernel if short else None

    def _mover(self, point: Params) -> KernelMover | TapedMover:
        place, kernel = self.place, self.closed()
        if kernel is not None:
            return KernelMover(place.by, kernel, point, self.moved, place.window)
        return TapedMover(place.by, point, place.window, place.seed + len(self.cohorts), place.window > 0)

    def recorded(self) -> int:
        """Updates since the level above stepped, in the oldest cohort."""
        return self.cohorts[0].mover.recorded if self.cohorts else 0

    def measure(self, points: Params, cotangents: Params) -> list[Sums]:
        """What the kernels need of the tensors; one dict per cohort that has one."""
        found = []
        for cohort in self.cohorts:
            mover = cohort.mover
            if isinstance(mover, KernelMover) and mover.recorded:
                mine, after = _of(cohort.indices, points, cotangents)
                found.append(mover.measure(mine, cohort.without_idle(after)))
        return found

    def feed(self, cotangents: Params, sums: Sequence[dict[str, float]], objective: str) -> None:
        """What came after the recorded updates, and what :meth:`measure` found, as numbers."""
        read = iter(sums)
        for cohort in self.cohorts:
            mover = cohort.mover
            if not mover.recorded:
                continue
            weight = self.place.weight(mover.recorded, objective)
            if isinstance(mover, KernelMover):
                mover.feed(next(read), weight)
            else:
                mover.feed(cohort.without_idle([cotangents[i] for i in cohort.indices]), weight)

    def pull(self) -> list[Any]:
        """The hypergradient, summed over the cohorts; numbers where the slot is scalar."""
        total = None
        for cohort in self.cohorts:
            mover = cohort.mover
            if not mover.recorded:
                continue
            found: list[Any]
            if isinstance(mover, KernelMover):
                found = mover.pull()
            else:
                found = plain(mover.pull(), self.place.by.scalar)
                mover.clear()
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        assert total is not None
        return total

    def length(self, points: Params) -> float:
        """The norm of the recorded updates."""
        parts = []
        for cohort in self.cohorts:
            mover = cohort.mover
            if isinstance(mover, TapedMover):
                parts += [d for step in mover.updates for d in step]
            elif mover.recorded:
                parts += self._last(cohort, points) or []
        return self._norm(parts)

    def move(self, points: Params, grads: Sequence[Tensor | None], loss: Tensor | None, scale: float) -> None:
        """One step of every cohort, in place on ``points``. Tensors without a gradient stay as they are."""
        self.admit(points, grads)
        for cohort in self.cohorts:
            have = [grads[i] is not None for i in cohort.indices]
            cohort.idle = [n for n, there in enumerate(have) if not there]
            if not any(have):
                continue
            mine = [points[i] if there else points[i].clone() for i, there in zip(cohort.indices, have, strict=True)]
            known = [grads[i] for i in cohort.indices]
            signal = [torch.zeros_like(p) if g is None else g for g, p in zip(known, mine, strict=True)]
            kind = self.place.level.normalize or "none"
            if kind != "none":
                signal, cohort.normal = NORMALIZERS[kind](signal, cohort.normal, None)
            if isinstance(cohort.mover, KernelMover):
                cohort.mover.step(mine, signal, scale)
            else:
                # The tape may hold what it was given, and both are about to change.
                held = [p.clone() for p in mine]
                deltas = cohort.mover.step(held, [g.clone() for g in signal], loss, scale)
                torch._foreach_add_(mine, [d.to(p.dtype) for d, p in zip(deltas, mine, strict=True)])

    def bound(self, points: Params, reach: float) -> float:
        """Cut the last update back to ``reach`` times the norm of what it moves, and lower the rate to match.

        Returns:
            The length of the update as it was made, over the reach: above 1 if it was cut.
        """
        rate = self.rate
        if rate is None or not self.recorded():
            return 0.0
        mine = [points[i] for c in self.cohorts for i in c.indices]
        updates = [self._last(c, points) if c.mover.recorded else None for c in self.cohorts]
        length = self._norm([u for update in updates for u in update or []])
        limit = reach * self._size(mine)
        if not length > limit:
            return length / limit
        for cohort, update in zip(self.cohorts, updates, strict=True):
            if update is not None:
                torch._foreach_sub_([points[i] for i in cohort.indices], update)
        limit = reach * self._size(mine)
        keep = min(1.0, limit / length)
        for cohort, update in zip(self.cohorts, updates, strict=True):
            if update is None:
                continue
            torch._foreach_add_([points[i] for i in cohort.indices], update, alpha=keep)
            if isinstance(cohort.mover, TapedMover):
                cohort.mover.shorten(keep)
        self.place.by.add([rate], [math.log(keep)])
        if self.place.window > 1:
            self.forget()  # a window is at one rate
        return length / limit

    def _norm(self, parts: Params) -> float:
        """The norm of ``parts``, over all processes that hold some of them."""
        if not parts:
            return 0.0
        mine = float(tree.norm(parts))
        shards = self.place.shards
        return math.sqrt(shards.totals([mine * mine], parts[0].device)[0]) if shards else mine

    def _size(self, points: Params) -> float:
        (count,) = self.place.shards.totals([sum(p.numel() for p in points)], points[0].device)
        return max(self._norm(points), FLOOR * math.sqrt(max(count, 1)))

    @staticmethod
    def _last(cohort: Cohort, points: Params) -> Params | None:
        """The last update of each tensor, if it is known."""
        mover, mine = cohort.mover, [points[i] for i in cohort.indices]
        found = mover.last(mine) if isinstance(mover, KernelMover) else [d.detach() for d in mover.updates[-1]]
        return None if found is None else cohort.without_idle([u.to(p.dtype) for u, p in zip(found, mine, strict=True)])

    def undo(self, points: Params) -> bool:
        """Take the last update back; False where there is no record of it."""
        done = False
        for cohort in self.cohorts:
            last = self._last(cohort, points) if cohort.mover.recorded else None
            if last is not None:
                torch._foreach_sub_([points[i] for i in cohort.indices], last)
                done = True
        return done

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        saved = [
            {
                "indices": c.indices,
                "fused": isinstance(c.mover, KernelMover),
                "mover": c.mover.tree(),
                "normal": c.normal,
                "idle": list(c.idle),
            }
            for c in self.cohorts
        ]
        return {"kind": "task", "cohorts": saved}

    def load(self, saved: dict[str, Any], points: Params, where: str) -> None:
        """Continue from :meth:`tree`. Raises RecoptError if it does not fit."""
        same_kind("task", saved, self.place.number, where)
        self.cohorts, self.seen = [], set()
        for part in saved["cohorts"]:
            indices = [int(i) for i in part["indices"]]
            mover = self._mover([points[i] for i in indices])
            if part["fused"] != isinstance(mover, KernelMover):
                raise RecoptError(f"{where} was saved with fused={part['fused']}: give the same.")
            mover.load(part["mover"])
            self.cohorts.append(Cohort(indices, mover, part["normal"], list(part["idle"])))
            self.seen.update(indices)

    def forget(self) -> None:
        """Drop the record, so that no signal comes from it."""
        for cohort in self.cohorts:
            if isinstance(cohort.mover, TapedMover):
                cohort.mover.clear()
            else:
                cohort.mover.recorded = 0


def _of(indices: Sequence[int], *columns: Params) -> tuple[Params, ...]:
    return tuple([c[i] for i in indices] for c in columns)
