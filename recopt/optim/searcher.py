"""A zero-order level in a training loop that goes on: points are scored one after another.

There is one model and no way back, so a candidate is put in place, the next ``every`` steps below are made with it,
and the mean of their losses is its score. Scores come from different stretches of the training and are noisy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..contracts.strategy import Params, Trial
from .columns import TapedCohort
from .place import Place
from .points import points_of, write_back
from .rungs import TaskRung
from .signals import one_number, same_kind
from .slot import Slot


class Searcher:
    """A zero-order level that moves the coordinates ``indices`` of the slot ``moves``."""

    def __init__(self, place: Place, moves: Slot, indices: Sequence[int]) -> None:
        self.place, self.moves, self.indices = place, moves, list(indices)
        self.rng = torch.Generator().manual_seed(place.seed)
        self.counts = {"skipped": 0, "bounded": 0}
        self.base = self._point()
        self.state = trees.detach(self._strategy().init(self.base))
        self.candidates: list[Params] = []
        self.scores: list[float] = []
        self.losses: list[float] = []
        self.started = False

    def _strategy(self) -> Any:
        return self.place.by.strategy

    def _point(self) -> Params:
        found = self.moves.tensors()
        return [found[i] for i in self.indices]

    def move(self, signal: list[Any], bound: float, loss: Tensor | None) -> None:
        """Count ``loss`` for the candidate in place; at the end of its window go on to the next."""
        if loss is None:
            raise RecoptError(
                f"Level {self.place.number + 1} is zero-order and needs losses: call opt.step(closure), or "
                "opt.step(loss=loss) after loss.backward()."
            )
        if self.started:
            self.losses.append(float(loss))
            if len(self.losses) < (self.place.level.every or 1):
                return
            self.scores.append(sum(self.losses) / len(self.losses))
            self.losses = []
        self.started = True
        if self.candidates and len(self.scores) == len(self.candidates):
            self._judge()
        if not self.candidates:
            with torch.no_grad():
                self.candidates = self.place.by.at_present().propose(self.base, self.state, self.rng)
        self._place(self.candidates[len(self.scores)])

    def _judge(self) -> None:
        like = self.base[0]
        scored = zip(self.candidates, self.scores, strict=True)
        trials = [Trial(point, like.new_tensor(score)) for point, score in scored]
        with torch.no_grad():
            deltas, self.state = self._strategy()(self.base, trials, self.state, self.rng)
        if all(bool(torch.isfinite(d).all()) for d in deltas):
            self.base = [b + d for b, d in zip(self.base, deltas, strict=True)]
        else:
            self.counts["skipped"] += 1
        self.candidates, self.scores = [], []

    def _place(self, point: Params) -> None:
        now = [self.moves.coords[i] for i in self.indices]
        target: list[Any] = [p.item() for p in point] if self.moves.scalar else list(point)
        self.moves.add(self.indices, [t - n for t, n in zip(target, now, strict=True)])

    def tree(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"kind": "search", "rng": self.rng.get_state(), "base": self.base, "state": self.state,
                "candidates": self.candidates, "scores": list(self.scores), "losses": list(self.losses),
                "started": self.started, "counts": dict(self.counts)}  # fmt: skip

    def load(self, saved: dict[str, Any], points: Params, where: str) -> None:
        """Continue from :meth:`tree`. Raises RecoptError if it does not fit."""
        same_kind("search", saved, self.place.number, where)
        self.rng.set_state(saved["rng"].cpu())
        self.base, self.state, self.candidates = saved["base"], saved["state"], saved["candidates"]
        self.scores, self.losses, self.counts = list(saved["scores"]), list(saved["losses"]), dict(saved["counts"])
        self.started = saved["started"]


def search(rungs: Sequence[TaskRung], tensors: Sequence[Tensor], closure: Callable[[], Any], sign: float) -> Any:
    """Let the zero-order strategies of ``rungs`` move a model, in place, by the losses that ``closure`` computes.

    Args:
        sign: what losses are multiplied by: -1 to maximize.

    Returns:
        The first loss: that of the point itself where a strategy proposes it first.
    """
    first = None
    for rung in rungs:
        points = points_of(tensors)
        rung.admit(points, points)
        for cohort in rung.cohorts:
            assert isinstance(cohort, TapedCohort)
            seen = _searched(cohort, cohort.of(tensors), closure, sign)
            first = seen if first is None else first
    if first is None:
        with torch.enable_grad():
            first = closure()
    return first


def _searched(cohort: TapedCohort, mine: Params, closure: Callable[[], Any], sign: float) -> Any:
    """One step of the strategy of ``cohort``, which moves ``mine``; the first loss."""
    first, mover, strategy = None, cohort.mover, cohort.place.by.strategy
    now = [p.clone() for p in points_of(mine)]
    trials = []
    with torch.no_grad():
        candidates = strategy.propose(now, mover.state, mover.rng)
    for proposed in candidates:
        candidate = [c if t.requires_grad else n for c, n, t in zip(proposed, now, mine, strict=True)]
        _put(candidate, mine)
        with torch.enable_grad():
            loss = closure()
        first = loss if first is None else first
        trials.append(Trial(candidate, sign * one_number(loss, "The closure"), None))
    deltas = mover.step_trials(now, trials, 1.0)
    good = all(bool(torch.isfinite(d).all()) for d in deltas)
    moved = [p + d if t.requires_grad else p for p, d, t in zip(now, deltas, mine, strict=True)]
    _put(moved if good else now, mine)
    return first


def _put(values: Params, tensors: Sequence[Tensor]) -> None:
    points = points_of(tensors)
    for point, value in zip(points, values, strict=True):
        point.copy_(value)
    write_back(points, tensors)
