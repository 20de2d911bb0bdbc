"""The state of a run: one tree. Checkpoint, resume, trial and rollback are copies of (part of) it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State
from .judgement import Guard
from .parts import Part

Values = list[Any]
"""What a slot holds, or a signal for it: tensors, or floats where the slot is made of numbers."""
Pair = tuple[Tensor, Tensor]
"""A taped tensor, and the gradient of the meta-loss with respect to it, everything before it held fixed."""


@dataclass(slots=True)
class Signal:
    """The signal of a level: the (meta-)loss at its slot's value and, for first-order strategies, the gradient.

    Attributes:
        loss: 0-dimensional, or over tasks; None where a training loop does not tell it.
        grads: one entry per parameter that the level moves: tensors (None: no gradient reached it) or floats.
        pairs: the window behind it, for a level above that differentiates through it.
        bound: the denominator of the cosine normalizer, a product of norms.
        norm: that of ``grads``, the mean over tasks, where it is known.
        bad: where the guard acted: there is no step. Over tasks, or one element.
        void: whether it says nothing: the guard acted on every task of the run.
    """

    loss: Any = None
    grads: Values | None = None
    pairs: Sequence[Pair] = ()
    bound: Any = None
    norm: float | None = None
    bad: Tensor | None = None
    void: bool = False


@dataclass
class Record:
    """One update of a level below, and what came after it; live tensors carry the graph.

    Attributes:
        point: what is moved, after the update; empty where nobody differentiates.
        update: the update itself, where somebody reads it.
        loss: that came after; None as long as it did not.
        pairs: the taped tensors with their cotangents; None where it is the loss itself that is taped.
        bound: what ``cosines`` are measured by, where the level above reads those.
        slopes: in place of pairs, where the derivative has a closed form: of ``loss``, by the coordinates of the
            strategy that made the update.
        lesson: the strategy's own update (before schedules and guards) and its teacher's, tensor by tensor.
        made_of: what the update is made anew from when a saved state is loaded, where that is kept.
    """

    point: Params
    update: Params
    loss: Any = None
    pairs: list[Pair] | None = field(default_factory=list)
    slopes: Values | None = None
    bound: float = 0.0
    lesson: list[Pair] = field(default_factory=list)
    made_of: dict[str, Any] | None = None


@dataclass
class Window:
    """The updates since a level last stepped, per subject; ``start`` holds what was before the first of them."""

    records: list[list[Record]]
    start: list[Record | None]

    @classmethod
    def empty(cls, subjects: int) -> Window:
        """Nothing recorded yet."""
        return cls([[] for _ in range(subjects)], [None] * subjects)

    def next(self, exact: bool = False) -> Window:
        """The window that opens where this one closes, whose last evaluation is its start; ``exact``: with the tape."""
        starts: list[Record | None] = []
        for records, start in zip(self.records, self.start, strict=True):
            done = [r for r in records if r.loss is not None]
            last = Record([], [], done[-1].loss, done[-1].pairs, done[-1].slopes) if done else start
            known = last is not None and last.loss is not None
            plain = Record([], [], trees.detach(last.loss), slopes=last.slopes) if last is not None and known else None
            starts.append(last if exact else plain)
        # An update of a slower or faster subject may still wait for what comes after it.
        return Window([[x for x in r if x.loss is None] for r in self.records], starts)


@dataclass
class Start:
    """The start of one of the tasks side by side: its place, its draw, and the slot's ``seen`` at that moment."""

    place: int
    draw: int
    seen: int


@dataclass
class Count:
    """A plain number of a state, over tasks that did not begin together (see :mod:`.counts`).

    ``whole`` if it was an int. ``value`` is float64, or bool.
    """

    value: Tensor
    whole: bool = False


@dataclass
class Search:
    """A level at work on trials: points to score, scores so far, and the states to go back or on to.

    ``starts`` has one for each candidate that keeps a run of its own, ``of`` the trial of the last search that it is
    the end of. ``ready`` are the ends of windows run beside the first one, by candidate; ``carried`` its estimator's.
    """

    point: Params
    candidates: list[Params]
    start: Any = None
    scores: list[Tensor] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    starts: list[Any] = field(default_factory=list)
    ready: dict[int, Any] = field(default_factory=dict)
    of: list[int] = field(default_factory=list)
    carried: dict[str, Any] = field(default_factory=dict)


@dataclass
class Numbers:
    """The value of a slot whose strategy has hyperparameters only: float64 ``coords`` in the order of its parameters.

    Attributes:
        value: natural values by name, hyperparameters that are off included.
        slopes: d natural / d coordinate.
        leaves: the coordinates as tensors that a tape runs over, as long as they do not change.
        draw, age, seen, version: as in :class:`SlotState`.
    """

    coords: list[float]
    value: dict[str, float]
    slopes: list[float]
    leaves: list[Tensor | None]
    draw: int = 0
    age: int = 0
    seen: int = 0
    version: int = 0

    @property
    def params(self) -> Params:
        """The coordinates as 0-dimensional float64 tensors."""
        return [torch.tensor(c, dtype=torch.float64) for c in self.coords]

    def taped(self) -> Params:
        """The coordinates as leaves of a tape: the same tensors until they change."""
        for i, leaf in enumerate(self.leaves):
            if leaf is None or not leaf.requires_grad:
                self.leaves[i] = torch.tensor(self.coords[i], dtype=torch.float64, requires_grad=True)
        return [leaf for leaf in self.leaves if leaf is not None]


@dataclass
class SlotState:
    """A slot's value as tensors: what is moved and what is carried along.

    ``draw`` counts fresh starts, ``age`` the updates and ``seen`` the evaluations since the last one, and
    ``version`` every change of ``params``. ``starts`` says where each task began, once they started afresh by turns.
    """

    params: Params
    buffers: list[Tensor]
    draw: int = 0
    age: int = 0
    seen: int = 0
    version: int = 0
    starts: list[Start] = field(default_factory=list)


@dataclass
class LevelState:
    """A level's own state: it never belongs to the strategy's module, so tied levels do not share it.

    Attributes:
        parts: what it moves, by when it had its first gradient, with the strategy's state for each.
        rng: of the strategy; window: the updates below since it last stepped.
        steps: made so far.
        search: the trials of a zero-order level, while it is at work.
        members: between two searches, of the runs of the last, what lies below, where some of the next go on from it.
        before, score: what a null step goes back to.
        silent: updates in windows that had no hypergradient, −1 once one had.
        logged: the version of the strategy's slot that was last recorded; earlier: the signal that was, above level 1.
        phase: how much of an episode has passed since the tasks that start by turns all began, modulo 1.
        taught: the states of a teacher beside each subject.
        counts: how often the guard acted on its steps.
        live: the point after its last update, with its graph, where a tape runs over a model that is moved in place.
        stamp: of that model then, so that a change from outside is noticed; carried: its estimator's.
    """

    parts: list[Part]
    rng: Tensor
    window: Window
    steps: int = 0
    search: Search | None = None
    members: list[Any] = field(default_factory=list)
    before: Params | None = None
    score: Tensor | None = None
    silent: int = 0
    logged: int = -1
    earlier: Values = field(default_factory=list)
    phase: float = 0.0
    taught: dict[int, State] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    live: Params = field(default_factory=list)
    stamp: list[tuple[int, int]] = field(default_factory=list)
    carried: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunState:
    """Everything a run is, at one moment.

    ``step`` counts evaluations of the task that were followed by a step or refused by the guard: ``good`` says which of
    the last one, per task, and ``norm`` is that of its gradient, the mean over tasks. ``middle`` marks the moment
    between the way up (signals) and the way down (steps), where no tape is open. ``resets`` names the slots that are to
    start afresh on the way down, ``due`` the places of the tasks that are to do so by themselves. ``log`` holds points
    of the record not yet handed on. ``sums`` (by level, of each part) and ``held``, the evaluation on the held-out
    batch where a level asked for it, are measured on the way up and used on it. ``rng`` is where the random numbers of
    the models are between two steps (see :mod:`recopt.engine.randomness`). ``read`` is the version of the loss's
    parameters that the present gradient was made with.
    """

    slots: dict[str, SlotState | Numbers]
    levels: list[LevelState]
    pending: list[Signal | None]
    guard: Guard | None = None
    good: list[bool] = field(default_factory=list)
    norm: float = 0.0
    step: int = 0
    middle: bool = False
    resets: list[str] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    log: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    sums: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    held: Signal | None = None
    rng: list[Tensor] = field(default_factory=list)
    read: int = 0

    @property
    def task(self) -> SlotState:
        """The slot of the task."""
        found = self.slots["task"]
        assert isinstance(found, SlotState)
        return found
