"""The lowest levels of a tower, which move a model's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..contracts.errors import RecoptError
from ..contracts.strategy import Params
from .columns import KernelCohort, TapedCohort, cohort_of
from .place import Place
from .signals import Pulled, same_kind, summed
from .update import Update


class TaskRung:
    """A level that moves the model's tensors ``indices``.

    Raises:
        RecoptError: if the model is split over processes and this level needs whole tensors.
    """

    def __init__(self, place: Place, indices: Sequence[int]) -> None:
        place.check_sharded()
        self.place, self.indices, self.rate = place, list(indices), place.rate()
        self.cohorts: list[KernelCohort | TapedCohort] = []
        self.seen: set[int] = set()

    def admit(self, points: Params, grads: Sequence[Tensor | None]) -> None:
        """Make a cohort of those tensors that have a gradient for the first time, and are not empty."""
        fresh = [i for i in self.indices if grads[i] is not None and i not in self.seen]
        # What is empty here may be a part of a split tensor, and all processes must make the same cohorts.
        fresh = [i for i in fresh if points[i].numel() or self.place.shards]
        if fresh:
            self.seen.update(fresh)
            self.cohorts.append(cohort_of(self.place, fresh, points, len(self.cohorts)))

    @property
    def recorded(self) -> int:
        """Updates since the level above stepped, in the oldest cohort."""
        return self.cohorts[0].mover.recorded if self.cohorts else 0

    def pull(self, points: Params, cotangents: Params, sums: Sequence[dict[str, float]], norm: float) -> Pulled | None:
        """Note what came after the recorded updates; the hypergradient for the levels above, if their window is full.

        Args:
            cotangents: what came after, of which ``norm`` is the norm.
            sums: what each cohort's ``measure`` found, as numbers.
        """
        place = self.place
        if not place.window or not self.recorded:
            return None
        there = [(c, read) for c, read in zip(self.cohorts, sums, strict=True) if c.mover.recorded]
        for cohort, read in there:
            cohort.feed(cotangents, read)
        if self.recorded < place.window:
            return None
        bound = 0.0
        if place.cosine:
            bound = place.shards.norm([u for cohort, _ in there for u in cohort.updates(points)]) * norm
        return Pulled(summed([cohort.pull() for cohort, _ in there]), bound)

    def move(self, points: Params, grads: Sequence[Tensor | None], loss: Tensor | None, scale: float) -> None:
        """One step of every cohort, in place on ``points``. Tensors without a gradient stay as they are."""
        self.admit(points, grads)
        for cohort in self.cohorts:
            cohort.move(points, grads, loss, scale)

    def last(self, points: Params) -> Update:
        """The last update, which led to ``points``."""
        return Update(self.cohorts, points, self.place.shards)

    def forget(self) -> None:
        """Drop the record, so that no signal comes from it."""
        for cohort in self.cohorts:
            cohort.mover.forget()

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"kind": "task", "cohorts": [cohort.tree() for cohort in self.cohorts]}

    def load(self, saved: dict[str, Any], points: Params, where: str) -> None:
        """Continue from :meth:`tree`. Raises RecoptError if it does not fit."""
        same_kind("task", saved, self.place.number, where)
        self.cohorts, self.seen = [], set()
        for part in saved["cohorts"]:
            cohort = cohort_of(self.place, [int(i) for i in part["indices"]], points, len(self.cohorts))
            if part["fused"] != isinstance(cohort, KernelCohort):
                raise RecoptError(f"{where} was saved with fused={part['fused']}: give the same.")
            cohort.mover.load(part["mover"])
            cohort.normal, cohort.idle = part["normal"], list(part["idle"])
            cohort.mean, cohort.folds = list(part.get("mean", [])), part.get("folds", 0)
            self.cohorts.append(cohort)
            self.seen.update(cohort.indices)
