"""The points that levels try, and what they make of the scores: a choice among them, or the estimate of a gradient."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.strategy import Params, Trial
from ..core.tower import Tower
from ..estimators.es import draw
from ..levels.completion import usual
from ..levels.estimator import POINTS, STACK, Perturbing
from ..levels.registry import ESTIMATORS
from ..levels.state import LevelState, Numbers, RunState, Search, Signal, Window
from ..rules.answers import given
from ..rules.told import told
from .begins import Home
from .lineage import descent


class Choosing(Protocol):
    """The part of a search that is its level's own."""

    def search(self, state: RunState, number: int) -> Search:
        """The points that level ``number`` tries next, and for each the place of the trial that it goes on from."""

    def decide(self, number: int, search: Search) -> None:
        """All are scored: go on from one of their ends, with what the level makes of the scores."""


class Chosen:
    """A zero-order strategy proposes points, and chooses; the run goes on from the trial nearest to its choice.

    Args:
        common: by level, the levels that its members have in common.
    """

    def __init__(self, tower: Tower, home: Home, common: Sequence[Collection[int]]) -> None:
        self.tower, self.home, self.common, self.levels = tower, home, common, tower.graph.levels

    def search(self, state: RunState, number: int) -> Search:
        """The strategy's proposals."""
        point = self.tower.slots.tensors(number, trees.detach(self.tower.slots.point(state, number)))
        points = [list(c) for c in self._asked(state, number, "propose", point)]
        return Search(point, points, of=self._ancestors(state.levels[number], number, len(points)))

    def _ancestors(self, own: LevelState, number: int, count: int) -> list[int]:
        """The members that ``count`` points go on from, where they do; the first's is the present."""
        by, members = self.levels[number].by, own.members
        of = self.tower.graph.slots[by].ancestors(own.parts[0].strategy) if members else []
        if of and (len(of) != count or not all(0 <= k < len(members) for k in of)):
            raise RecoptError(
                f"'{by}' gives {of} as ancestors of {count} points, after {len(members)} trials: "
                "give the index of a trial for each."
            )
        return of

    def _asked(self, state: RunState, number: int, method: str, *told: Any) -> Any:
        """The answer of a level's strategy by ``method``, which may draw random numbers, to what it is told."""
        own, looking = state.levels[number], self.tower.forward.looking
        mover: Any = self.tower.carriers.movers[number]
        values = self._values(state, number)
        inputs = given(values, told, own.parts[0].strategy) if looking.closely(state, number) else ([], [])
        rng = Generator()
        rng.set_state(own.rng)
        with torch.no_grad():
            answer = getattr(mover.loaded.at(values), method)(*told, own.parts[0].strategy, rng)
        looking.unchanged(number, *inputs)
        own.rng = rng.get_state()
        return answer

    def _values(self, state: RunState, number: int) -> Params:
        """The parameters of a level's strategy; where it moves them itself, its hyperparameters at their defaults.

        So its own step is changed by factors whose size is fixed, as in self-adaptation (Beyer & Schwefel 2002, eq. 8),
        and not by itself: by which it would never leave a small one, nor be told from noise at a large one.
        """
        level = self.levels[number]
        values = trees.detach(self.tower.slots.strategy(state, level.by))
        if level.moves != level.by:
            return values
        fixed, names = usual(self.tower.graph.slots[level.by]), self.tower.graph.names[level.by]
        return [v.new_tensor(fixed[n]) if n in fixed else v for n, v in zip(names, values, strict=True)]

    def decide(self, number: int, search: Search) -> None:
        """Let the strategy choose, and go on from the end of the window that ran closest to its choice."""
        state = self.home.state
        own = state.levels[number]
        trials = [Trial(c, s) for c, s in zip(search.candidates, search.scores, strict=True)]
        delta, after = self._asked(state, number, "__call__", search.point, trials)
        rng = own.rng
        self.tower.forward.looking.fitting(number, delta, search.point)
        if not all(bool(torch.isfinite(d).all()) for d in delta):
            own.counts["skipped"] = own.counts.get("skipped", 0) + 1
            delta = [torch.zeros_like(d) for d in delta]
        new = [p + d for p, d in zip(search.point, delta, strict=True)]
        winner = nearest(new, search.candidates, search.scores)
        keeps = self.home.returns and self.tower.graph.slots[self.levels[number].by].keeps_members()
        ends = [*search.ends, self.home.copy()] if keeps else []
        members = [alone(end, self.common[number]) for end in ends]
        if winner < len(search.ends):
            self.home.go(search.ends[winner])
            state = self.home.state
            own = state.levels[number]
        own.parts[0].strategy, own.rng, own.steps, own.members = after, rng, own.steps + 1, members
        self.tower.slots.put(state, number, trees.detach(new))
        state.pending[number] = Signal(search.scores[winner])
        self._log(number, search, winner, delta)
        if ends and self.tower.around is not None:
            state.log += descent(self.tower.graph, number, search, ends, winner)

    def _log(self, number: int, search: Search, winner: int, delta: Params) -> None:
        around, scores = self.tower.around, torch.stack(search.scores)
        if around is None:
            return
        state, graph = self.home.state, self.tower.graph
        values: dict[str, Any] = {"meta_loss": search.scores[winner], "update_norm": trees.norm(delta)}
        if len(scores) > 1:
            values |= {"accepted": int(winner > 0), "score_spread": scores.max() - scores.min()}
        by, parts = self.levels[number].by, state.levels[number].parts
        around.log(state, number, values | told(by, graph.slots[by], graph.names[by], state.slots[by], parts))
        around.hyperparameters(state, number)


class Estimated:
    """Perturbed points beside the present one, from which the run goes on; their scores make a gradient.

    Args:
        common: by level, the levels that its particles have in common.
    """

    def __init__(self, tower: Tower, home: Home, common: Sequence[Collection[int]]) -> None:
        self.tower, self.home, self.common, self.levels = tower, home, common, tower.graph.levels

    def search(self, state: RunState, number: int) -> Search:
        """The present point, and pairs of perturbed ones."""
        slots, own, level = self.tower.slots, state.levels[number], self.levels[number]
        estimator: Perturbing = ESTIMATORS[level.gradient or ""]
        point, rng = slots.tensors(number, trees.detach(slots.point(state, number))), Generator()
        rng.set_state(own.rng)
        begins = any(self.levels[m].moves in state.resets for m in self.tower.graph.subjects[number])
        fresh = begins or not (own.members or STACK in own.carried)
        drawn = draw(point, level.sigma or 1.0, level.pairs or 1, rng)
        own.rng, carried, own.carried = rng.get_state(), {} if fresh else own.carried, {}
        noise = estimator.perturbed(carried, fresh, drawn)
        both = [torch.stack([p + e, p - e], 1).flatten(0, 1) for p, e in zip(point, noise, strict=True)]
        carried[POINTS] = [torch.cat([p[None], rows]) for p, rows in zip(point, both, strict=True)]
        points = [list(row) for row in zip(*carried[POINTS], strict=True)]
        return Search(point, points, of=list(range(len(points))) if own.members and not fresh else [], carried=carried)

    def decide(self, number: int, search: Search) -> None:
        """Hand the level the estimate, and go on from the end of the present point's window."""
        level, scores = self.levels[number], torch.stack(search.scores)
        del search.carried[POINTS]
        estimator: Perturbing = ESTIMATORS[level.gradient or ""]
        ends = [*search.ends, self.home.copy()] if estimator.persistent and search.ends else []
        if search.ends:
            self.home.go(search.ends[0])
        state = self.home.state
        own = state.levels[number]
        own.members = [alone(end, self.common[number]) for end in ends]
        own.carried = search.carried if estimator.persistent else {}
        grads: Any = estimator.estimate(search.carried, level.sigma or 1.0, scores[1::2] - scores[2::2])
        if isinstance(state.slots[level.moves], Numbers):
            grads = torch.stack([g.double() for g in grads]).tolist()
        state.pending[number] = Signal(search.scores[0], grads)


def nearest(new: Params, candidates: list[Params], scores: list[Tensor]) -> int:
    """The index of the candidate nearest to ``new``, of the better score among equals."""
    gaps = [float(trees.norm([a - b for a, b in zip(new, c, strict=True)])) for c in candidates]
    return min(range(len(candidates)), key=lambda i: (gaps[i], float(scores[i])))


def alone(state: RunState, common: Collection[int]) -> RunState:
    """The part of ``state`` that is a member's own: nothing of the levels in ``common``, nor of the record."""
    levels = [LevelState([], own.rng, Window([], [])) if n in common else own for n, own in enumerate(state.levels)]
    return replace(state, levels=levels, log=[])
