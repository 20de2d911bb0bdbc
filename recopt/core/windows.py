"""The way up through the levels above the task: fill their windows, and close those that are full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.errors import RecoptError
from ..estimators.tape import distance
from ..levels.estimator import Closing, Estimator
from ..levels.level import TASK
from ..levels.registry import ESTIMATORS
from ..levels.state import Numbers, Record, RunState, Signal, Window
from .bottom import Bottom
from .carriers import Carriers
from .evaluation import Around
from .slots import Slots

DEAF = 10
"""Updates below a level, in at least two windows, without any hypergradient: then it is taken for disconnected."""

Other = Callable[[int, int, Signal], Signal]
"""The signal of a level of the task (second number) for one above it (first), on the loss that this one is measured on,
from that on the training loss."""
Slopes = Callable[[RunState, int], list[float] | None]
"""Of a level that moves the task by columns, the derivative of the present loss by its strategy's coordinates."""


class Teaching(Protocol):
    """The teachers of levels that imitate (:mod:`recopt.engine.imitation`)."""

    def weight(self, state: RunState, number: int) -> float:
        """The weight of level ``number``'s comparison with its teacher at present; 0 where it has none."""
        ...

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape of the teachers beside level ``number``."""
        ...


class Windows:
    """Sends signals up.

    Args:
        teaching: the teachers of levels that imitate, if any do.
        searching: whether what happens now may yet be taken back.

    Attributes:
        closing: the levels whose windows the present evaluation closes.
    """

    def __init__(
        self, carriers: Carriers, slots: Slots, bottom: Bottom, *, teaching: Teaching | None = None,
        searching: Callable[[RunState], bool] = lambda state: False,
    ) -> None:  # fmt: skip
        self.graph = graph = carriers.graph
        self.carriers, self.slots, self.bottom, self.levels = carriers, slots, bottom, graph.levels
        self.teaching, self.searching = teaching, searching
        self.under = [graph.within(n) if x.second_order else graph.below(n) for n, x in enumerate(self.levels)]
        self.moves = [[self.levels[m].moves for m in subjects] for subjects in graph.subjects]
        self.closing: set[int] = set()

    # where tapes are cut: an exact level differentiates through the gradients beneath it, so they and the
    # hypergradients of the levels in between carry a graph until its own window has closed

    def foresee(self, state: RunState) -> None:
        """Note which windows the coming evaluation will close."""
        if not self.carriers.exact:
            return
        arriving = set(self.graph.movers[TASK])
        self.closing = set()
        for number, level in enumerate(self.levels):
            if level.moves != TASK and self.graph.clock(number) in arriving:
                records = state.levels[number].window.records[-1]
                if len(records) >= (level.every or 1):
                    self.closing.add(number)
                    arriving.add(number)

    def graph_needed(self, state: RunState) -> bool:
        """True if some level differentiates through the present evaluation's gradient."""
        if not self.carriers.exact:
            return False
        live = any(p.requires_grad for p in state.slots[TASK].params)
        tasks = set(self.graph.movers[TASK])
        return live and any(tasks & self.under[e] for e in self.carriers.exact if e not in self.closing)

    def _over(self, number: int) -> list[int]:
        """The exact levels that differentiate through the hypergradients of level ``number``."""
        return [e for e in self.carriers.exact if number in self.under[e]]

    def _how(self, state: RunState, number: int, imitation: float) -> Closing:
        # A search may come back to before this window closed, and close it again.
        others = any(n != number and x.taping and not self.carriers.closed[n] for n, x in enumerate(self.levels))
        exact = any(e not in self.closing for e in self._over(number))
        return Closing(exact=exact, keep=others or self.searching(state), imitation=imitation)

    def cut(self, state: RunState, number: int) -> None:
        """Truncate the tape below a level whose window has closed, where no other window is still open over it."""
        if self._over(number):
            return
        exact = bool(self.levels[number].second_order)
        open_ = [
            n
            for n, level in enumerate(self.levels)
            if n != number and level.taping and not self.carriers.closed[n] and any(state.levels[n].window.records)
        ]
        for m in self.under[number] if exact else set(self.graph.subjects[number]):
            needed = any(m in self.graph.subjects[n] or (exact and n in self.carriers.exact) for n in open_)
            pending = state.pending[m]
            if needed or pending is None:
                continue
            self.slots.cut(state, m)
            if self.teaching:
                self.teaching.cut(state, m)
            state.pending[m] = trees.detach(pending)

    # filling and closing

    def _slopes(self, state: RunState, m: int, signal: Signal, slopes: Slopes) -> list[float] | None:
        place = self.carriers.places.get(m)
        if place is None:
            return slopes(state, m)
        numbers: Any = state.slots[place.level.by]
        return place.mover.slopes(state.levels[m].parts[0], signal.grads or [], numbers)

    def collect(self, state: RunState, number: int, slopes: Slopes, other: Other) -> bool:
        """Fill a level's window with what came after the updates below; True if it is now full."""
        level, window = self.levels[number], state.levels[number].window
        subjects = self.graph.subjects[number]
        for m, records in zip(subjects, window.records, strict=True):
            signal = state.pending[m]
            if signal is None or not records or records[-1].loss is not None:
                continue
            if signal.void and level.taping:
                continue  # what came after is still to come
            record = records[-1]
            if level.moves != TASK and self.levels[m].moves == TASK:
                signal = other(number, m, signal)
            record.loss = torch.zeros(()) if signal.loss is None else signal.loss
            if not level.taping or signal.grads is None or signal.void:
                continue
            if self.carriers.closed[number]:
                record.slopes = self._slopes(state, m, signal, slopes)
            elif level.second_order:
                # Second derivatives couple parameter groups: what one moves changes the gradient of the other.
                record.pairs = list(signal.pairs)
            else:
                # Tensors that joined since come last, and were not in the update.
                record.pairs = [(p, _tensor(g, p)) for p, g in zip(record.point, signal.grads, strict=False)
                                if g is not None]  # fmt: skip
        full = sum(r.loss is not None for r in window.records[-1]) >= (level.every or 1)
        return full and state.pending[subjects[-1]] is not None

    def close(self, state: RunState, number: int, around: Around | None) -> Signal:
        """The signal of a full window; a new one begins."""
        own, level = state.levels[number], self.levels[number]
        estimator: Estimator = ESTIMATORS[level.gradient or ""]
        if self.carriers.closed[number]:
            return self._close_in_form(state, number, estimator)
        weight = self.teaching.weight(state, number) if self.teaching else 0.0
        how = self._how(state, number, weight)
        values = self.slots.strategy(state, level.moves)
        moved = [values[i] for i in self.slots.index(state, number)]
        with torch.set_grad_enabled(how.exact):
            signal = estimator.close(level, own.window, self.moves[number], moved, how)
        if weight and around is not None:
            around.log(state, number, {"imitation": distance(own.window)})
        self._heard(state, number, signal)
        if signal.grads is None:
            signal.grads = [torch.zeros_like(p) for p in moved]
        if isinstance(state.slots[level.moves], Numbers):
            signal.grads = torch.stack([g.double() for g in signal.grads]).tolist()
            signal.bound = None if signal.bound is None else float(signal.bound)
        own.window = own.window.next(how.exact)
        return signal

    def _close_in_form(self, state: RunState, number: int, estimator: Estimator) -> Signal:
        """The signal of a full window of closed derivatives."""
        own, index = state.levels[number], self.slots.index(state, number)
        signal = estimator.close(self.levels[number], own.window, self.moves[number], [], Closing(False, False))
        signal.grads = [0.0 if signal.grads is None else signal.grads[i] for i in index]
        for m in self.graph.subjects[number]:
            for part in state.levels[m].parts:
                part.recorded = 0
        own.window = own.window.next()
        return signal

    def _heard(self, state: RunState, number: int, signal: Signal) -> None:
        """Refuse a level that never had a hypergradient.

        A rule may use a hyperparameter only from some step on (Adam's betas from its second), so a few updates are
        not enough to tell.
        """
        own, level = state.levels[number], self.levels[number]
        if own.deaf < 0:
            return
        again = own.deaf > 0
        own.deaf = own.deaf + (level.every or 1) if signal.grads is None else -1
        if again and own.deaf >= DEAF:
            names = [self.graph.names[level.moves][i] for i in self.slots.index(state, number)]
            raise RecoptError(
                f"Level {number + 1} gets no hypergradient: the updates of '{level.moves}' do not depend on "
                f"{', '.join(names)}. "
                "Read the parameters inside the strategy's forward, without detaching them."
            )

    def note(self, state: RunState, number: int, record: Callable[[int], Record], before: Signal | None) -> None:
        """Note an update of level ``number`` in the windows of the levels above.

        Args:
            record: makes the record for a level above.
            before: the signal that came before it, if any did.
        """
        for n in self.graph.above[number]:
            if self.carriers.lean[n]:
                continue
            window = state.levels[n].window
            k = self.graph.subjects[n].index(number)
            if before is not None and not window.records[k] and window.start[k] is None and before.loss is not None:
                window.start[k] = Record([], [], before.loss.detach())
            window.records[k].append(record(n))

    def empty(self, state: RunState, number: int) -> None:
        """Begin the window of a level anew."""
        state.levels[number].window = Window.empty(len(self.graph.subjects[number]))


def _tensor(g: Any, like: Tensor) -> Tensor:
    return g if isinstance(g, Tensor) else torch.tensor(g, dtype=like.dtype)
