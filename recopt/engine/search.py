"""Zero-order levels above the task: score each proposal over a window from the same state, then go on from the best.

Proposals are compared on the same batches from the same point in the run, so their difference is free
of the noise they share. The comparison is a state machine: the state before the window is a snapshot, each
proposal's window runs as any other steps do, and the run goes back to the snapshot until all are scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params, Trial
from ..core.state import RunState, Search, Signal
from .tape import value

if TYPE_CHECKING:
    from .engine import Engine


class Searcher:
    """Runs the trials of an engine's zero-order levels.

    Attributes:
        numbers: those levels.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, graph = engine, engine.graph
        self.numbers = [n for n, x in enumerate(engine.levels) if x.gradient == "value" and graph.subjects[n]]
        below = {n: graph.below(n) for n in self.numbers}
        self._rivals = {
            n: [m for m in self.numbers if m != n and m not in below[n] and n not in below[m]] for n in self.numbers
        }

    def active(self, state: RunState) -> bool:
        """Whether what happens now may yet be taken back."""
        return any(state.levels[n].search is not None for n in self.numbers)

    def payer(self, state: RunState) -> int:
        """The level (0-based) that evaluations are charged to: the outermost that tries something."""
        for n in reversed(self.numbers):
            search = state.levels[n].search
            if search is not None and search.scores:
                return n
        return 0

    def closed(self, state: RunState) -> bool:
        """Whether no tape is open in ``state`` nor in any state that it may go back to."""
        for level, own in zip(self.engine.levels, state.levels, strict=True):
            if level.taping and any(own.window.records):
                return False
            search = own.search
            if search is not None:
                others = [*search.ends, *([search.start] if search.start else [])]
                if not all(self.closed(other) for other in others):
                    return False
        return True

    def due(self, number: int) -> bool:
        """Whether level ``number`` may begin a search: one at a time, by turns, among levels of which neither is below.

        Two searches that overlap without one holding the other would take back each other's choices.
        """
        levels = self.engine.state.levels
        if levels[number].search is not None:
            return False
        return all(levels[n].search is None and levels[n].steps >= levels[number].steps for n in self._rivals[number])

    def begin(self, number: int) -> None:
        """Ask for proposals and set the first; remember the state to come back to."""
        engine, state = self.engine, self.engine.state
        own, level = state.levels[number], engine.levels[number]
        # Its window opens now, whatever was noted while it waited for its turn.
        own.window = own.window.next()
        if not self.active(state):
            engine.hand_on(state)
        point = trees.detach(engine.slots.point(state, number))
        module = engine.slots.callers[level.by].module(trees.detach(state.slots[level.by].params))
        rng = Generator()
        rng.set_state(own.rng)
        with torch.no_grad():
            candidates = [list(c) for c in module.propose(point, own.strategy, rng)]
        own.rng = rng.get_state()
        start = engine.stream.copy(state) if len(candidates) > 1 else None
        own.search = Search(point, candidates, start)
        engine.slots.put(state, number, trees.detach(candidates[0]))

    def judge(self, number: int) -> bool:
        """A window has closed: note the score. True if the run went back, to try the next proposal."""
        engine, state = self.engine, self.engine.state
        own = state.levels[number]
        search, window = own.search, own.window
        own.window = window.next()
        if search is None:
            return False
        point = engine.slots.point(state, number)
        level, weight = engine.levels[number], engine.teacher.weight(state, number)
        search.scores.append(value(level, window, engine.collector.slots[number], point, weight))
        engine.episodes.close(state, number)
        if len(search.scores) < len(search.candidates):
            self._back(number, search)
            return True
        self._decide(number, search)
        return False

    def _back(self, number: int, search: Search) -> None:
        """Go back to where the search began, with the next proposal."""
        engine, state = self.engine, self.engine.state
        assert search.start is not None
        state.levels[number].search = None
        search.ends.append(engine.stream.copy(state))
        engine.go(search.start)
        engine.state.levels[number].search = search
        engine.slots.put(engine.state, number, trees.detach(search.candidates[len(search.scores)]))

    def _decide(self, number: int, search: Search) -> None:
        """Let the strategy choose, and go on from the end of the window that ran closest to its choice."""
        engine, state = self.engine, self.engine.state
        level, own = engine.levels[number], state.levels[number]
        own.search = None
        trials = [Trial(c, s) for c, s in zip(search.candidates, search.scores, strict=True)]
        module = engine.slots.callers[level.by].module(trees.detach(state.slots[level.by].params))
        rng = Generator()
        rng.set_state(own.rng)
        with torch.no_grad():
            delta, after = module(search.point, trials, own.strategy, rng)
        new = [p + d for p, d in zip(search.point, delta, strict=True)]
        winner = nearest(new, search.candidates, search.scores)
        if winner < len(search.ends):
            engine.go(search.ends[winner])
            state = engine.state
            own = state.levels[number]
        own.strategy, own.rng, own.steps = after, rng.get_state(), own.steps + 1
        engine.slots.put(state, number, trees.detach(new))
        state.pending[number] = Signal(search.scores[winner])
        self._log(number, search, winner, delta)

    def _log(self, number: int, search: Search, winner: int, delta: Params) -> None:
        engine, scores = self.engine, torch.stack(search.scores)
        values = {
            "meta_loss": search.scores[winner],
            "accepted": int(winner > 0),
            "update_norm": trees.norm(delta),
            "spread": scores.max() - scores.min(),
        }
        engine.log(engine.state, number + 1, values)
        engine.mover.hyperparameters(engine.state, number)


def nearest(new: Params, candidates: list[Params], scores: list[Tensor]) -> int:
    """The index of the candidate nearest to ``new``, of the better score among equals."""
    gaps = [float(trees.norm([a - b for a, b in zip(new, c, strict=True)])) for c in candidates]
    return min(range(len(candidates)), key=lambda i: (gaps[i], float(scores[i])))
