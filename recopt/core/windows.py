"""The way up through the levels above the task: fill their windows, and close those that are full."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..estimators.tape import distance
from ..levels.carried import Carried
from ..levels.checks import refuse_disconnected
from ..levels.estimator import Closing, Estimator
from ..levels.level import TASK, Level
from ..levels.registry import ESTIMATORS
from ..levels.state import Numbers, Pair, Record, RunState, Signal
from .bottom import Bottom
from .carriers import Carriers
from .evaluation import Around
from .slots import Slots
from .tapes import Tapes, Teaching

DISCONNECTED = 10
"""Updates below a level, in at least two windows, without any hypergradient: then it is taken for disconnected."""

Other = Callable[[int, int, Signal], Signal]
"""The signal of a level of the task (second number) for one above it (first), on the loss that this one is measured on,
from that on the training loss."""


class Windows:
    """Fills the windows of levels above the task, and closes those that are full.

    Attributes:
        tapes: where they are cut.
        moves: by level, what each of its subjects moves.
    """

    def __init__(
        self, carriers: Carriers, slots: Slots, bottom: Bottom, around: Around | None, *,
        teaching: Teaching | None, searching: Callable[[RunState], bool],
    ) -> None:  # fmt: skip
        self.graph = graph = carriers.graph
        self.carriers, self.slots, self.bottom, self.around, self.levels = carriers, slots, bottom, around, graph.levels
        self.teaching, self.tapes = teaching, Tapes(carriers, slots, teaching, searching)
        self._told = [[n for n in above if not carriers.lean[n]] for above in graph.above]
        self.carried = Carried(self.levels, slots.moved, slots.index)
        self.moves = [[self.levels[m].moves for m in subjects] for subjects in graph.subjects]

    def collect(self, state: RunState, number: int, other: Other) -> bool:
        """Fill a level's window with what came after the updates below; True if it is now full."""
        level, window = self.levels[number], state.levels[number].window
        subjects, every = self.graph.subjects[number], self.graph.paces.every(state, number)
        ends_alone = level.objective == "last" and set(self.moves[number]) == {TASK}
        for k, (m, records) in enumerate(zip(subjects, window.records, strict=True)):
            signal = state.pending[m]
            if level.objective == "improvement" and window.start[k] is None and not records and signal is not None:
                first = other(number, m, signal) if self.levels[m].moves == TASK else signal
                if not first.void and first.loss is not None:
                    window.start[k] = Record([], [], first.loss.detach())
            if signal is None or not records or records[-1].loss is not None or (signal.void and level.taping):
                continue  # of what is void, what came after is still to come
            record = records[-1]
            unread = ends_alone and len(records) < every
            if self.levels[m].moves == TASK and not unread:
                signal = other(number, m, signal)
            record.loss = torch.zeros(()) if signal.loss is None else signal.loss
            if unread or not level.taping or signal.grads is None:
                continue
            if number in self.carried.numbers:
                record.slopes = self.carried.slopes(state, number, signal)
            elif self.carriers.closed[number]:
                record.slopes = self.bottom.slopes(state, m, signal)
            elif level.second_order:
                record.pairs = _behind(signal, level)
            else:
                # Tensors that joined since come last, and were not in the update.
                known = [(p, g) for p, g in zip(record.point, signal.grads, strict=False) if g is not None]
                record.pairs = [(p, torch.as_tensor(g, dtype=p.dtype)) for p, g in known]
            record.bound = self.slots.unit(state, m, signal) if level.normalize == "cosines" else 0.0
        last = window.records[-1]  # of which the newest alone may wait for what comes after it
        full = len(last) - (not last or last[-1].loss is None) >= every
        return full and state.pending[subjects[-1]] is not None

    def close(self, state: RunState, number: int) -> Signal:
        """The signal of a full window; a new one begins."""
        own, level = state.levels[number], self.levels[number]
        estimator: Estimator = ESTIMATORS[level.gradient or ""]
        if self.carriers.closed[number] and number not in self.carried.numbers:
            return self._close_in_form(state, number, estimator)
        weight = self.teaching.weight(state, number) if self.teaching else 0.0
        how = self.tapes.closing(state, number, weight)
        how = how if self.around is None else self.around.closing(state, number, how)
        moved = self.slots.moved(state, number)
        with torch.set_grad_enabled(how.exact):
            signal = estimator.close(level, own.window, self.moves[number], moved, how)
        if TASK in self.moves[number]:
            signal = self.carriers.setting.ranks.shared(signal, moved)
        if weight and self.around is not None:
            self.around.log(state, number, {"imitation": distance(own.window)})
        self._check_connected(state, number, signal)
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
        for part in (part for m in self.graph.subjects[number] for part in state.levels[m].parts):
            part.recorded = 0
        own.window = own.window.next()
        return signal

    def _check_connected(self, state: RunState, number: int, signal: Signal) -> None:
        """Refuse a level that never had a hypergradient.

        A rule may use a hyperparameter from a later step on (Adam's betas from its second): a few updates do not tell.
        """
        own, level = state.levels[number], self.levels[number]
        if own.silent < 0:
            return
        again = own.silent > 0
        own.silent = own.silent + (level.every or 1) if signal.grads is None else -1
        if again and own.silent >= DISCONNECTED:
            refuse_disconnected(self.graph, number, self.slots.index(state, number))

    def note(self, state: RunState, number: int, record: Callable[[int], Record] | None = None) -> None:
        """Note an update of level ``number`` for the levels above; ``record`` makes that of one which reads it."""
        for n in self._told[number]:
            k = self.graph.subjects[n].index(number)
            state.levels[n].window.records[k].append(Record([], []) if record is None else record(n))


def _behind(signal: Signal, level: Level) -> list[Pair] | None:
    """The tape behind a signal, of the whole slot: what one parameter group moves changes the gradient of another.

    None, for the loss itself, where that has a graph: one run through the model serves both, but not for a cosine.
    """
    loss = signal.loss
    if signal.bad is None and isinstance(loss, Tensor) and loss.requires_grad and level.normalize != "cosine":
        return None
    return list(signal.pairs)
