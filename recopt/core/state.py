"""Run state: one tree. Checkpoint, resume, trial and rollback are all copies of (part of) it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..contracts.strategy import Params, State

Pair = tuple[Tensor, Tensor]
"""A taped tensor, and the gradient of the meta-loss with respect to it, everything before it held fixed."""


@dataclass
class Signal:
    """What a level is told of its slot's value: the (meta-)loss and, for first-order strategies, the gradient.

    ``loss`` is 0-dimensional, or over tasks. ``grads`` has one entry per parameter that the level moves.
    ``pairs`` is the window behind it, for a level above that differentiates through it. ``bound`` is what
    the cosine normalizer divides by. ``bad`` marks where a guard put the slot back: there is no step there.
    ``norm`` is that of ``grads``, the mean over tasks, where it is known.
    """

    loss: Tensor
    grads: Params | None = None
    pairs: list[Pair] = field(default_factory=list)
    bound: Tensor | None = None
    bad: Tensor | None = None
    norm: float | None = None


@dataclass
class Record:
    """One update of a level below, and what came after it; live tensors carry the graph.

    ``null`` marks an update that did not happen, since a guard had just put the slot back. ``lesson`` has the
    strategy's own update (before schedules and guards) and its teacher's, tensor by tensor.
    """

    point: Params
    update: Params
    loss: Tensor | None = None
    pairs: list[Pair] = field(default_factory=list)
    null: bool = False
    lesson: list[Pair] = field(default_factory=list)


@dataclass
class Window:
    """The updates since a level last stepped, per subject; ``start`` holds what was before the first of them."""

    records: list[list[Record]]
    start: list[Record | None]

    @classmethod
    def empty(cls, subjects: int) -> Window:
        return cls([[] for _ in range(subjects)], [None] * subjects)

    def next(self, exact: bool = False) -> Window:
        """The window that opens where this one closes, whose last evaluation is its start; ``exact``: with the tape."""
        starts: list[Record | None] = []
        for records, start in zip(self.records, self.start, strict=True):
            done = [r for r in records if r.loss is not None]
            last = Record([], [], done[-1].loss, done[-1].pairs) if done else start
            plain = Record([], [], last.loss.detach()) if last and last.loss is not None else None
            starts.append(last if exact else plain)
        # An update of a slower or faster subject may still wait for what comes after it.
        return Window([[x for x in r if x.loss is None] for r in self.records], starts)


@dataclass
class Start:
    """Where one of the tasks side by side began: its place, its draw, and the slot's ``seen`` at that moment."""

    place: int
    draw: int
    seen: int


@dataclass
class Count:
    """A plain number of a state, over tasks that did not begin together (see :mod:`recopt.core.counts`).

    ``whole`` if it was an int. ``value`` is float64, or bool.
    """

    value: Tensor
    whole: bool = False


@dataclass
class Search:
    """A zero-order level at work: points to score, scores so far, and the states to go back or on to."""

    point: Params
    candidates: list[Params]
    start: RunState | None
    scores: list[Tensor] = field(default_factory=list)
    ends: list[RunState] = field(default_factory=list)


@dataclass
class Guard:
    """What a slot can be put back to, and how far the steps of the levels that move it have been shrunk, per task.

    ``strikes`` counts restorations since a step last went well, ``wrong`` says where the last evaluation was one.
    ``seen`` counts good evaluations.
    """

    point: Params
    states: list[State]
    reference: list[float]
    scale: list[float]
    strikes: list[int]
    seen: list[int]
    restored: int = 0
    wrong: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        held: Any = self.seen
        if isinstance(held, int):  # a checkpoint from when this was one number for all tasks
            self.seen = [held] * len(self.reference)
        self.wrong = self.wrong or [False] * len(self.reference)  # a checkpoint from when it was empty at first


@dataclass
class LevelState:
    """A level's own state: it never belongs to the strategy's module, so tied levels do not share it.

    ``before`` and ``score`` are what a null step goes back to. ``deaf`` counts the updates in windows that had no
    hypergradient, −1 once one had. ``logged`` is the version of the strategy's slot that was last recorded.
    ``phase`` is how much of an episode has passed since the tasks that start by turns all began, modulo 1.
    ``taught`` holds the states of a teacher beside each subject. ``mean`` is that of the points before the present one
    (see ``Level.average``).
    """

    strategy: State
    normal: State
    rng: Tensor
    window: Window
    steps: int = 0
    search: Search | None = None
    before: Params | None = None
    score: Tensor | None = None
    deaf: int = 0
    logged: int = -1
    phase: float = 0.0
    taught: dict[int, State] = field(default_factory=dict)
    mean: Params = field(default_factory=list)


@dataclass
class SlotState:
    """A slot's value: what is moved and what is carried along.

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
class RunState:
    """Everything a run is, at one moment.

    ``step`` counts updates of the task. ``middle`` marks the moment between the way up (signals) and the
    way down (steps), where no tape is open. ``resets`` names the slots that are to start afresh on the way
    down, ``due`` the places of the tasks that are to do so by themselves. ``log`` holds points of the record not
    yet handed on. ``rng`` is where the random numbers of the models are between two steps.
    """

    slots: dict[str, SlotState]
    levels: list[LevelState]
    pending: list[Signal | None]
    guards: dict[str, Guard] = field(default_factory=dict)
    step: int = 0
    middle: bool = False
    resets: list[str] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    log: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    rng: list[Tensor] = field(default_factory=list)
