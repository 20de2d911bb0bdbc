"""The input of a tower, and its requests to its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..contracts.strategy import Params
from ..levels.estimator import Closing
from ..levels.state import Pair, RunState, Signal


@dataclass
class Evaluation:
    """The task at its present point.

    Attributes:
        loss: 0-dimensional, or over tasks; None where it is not told.
        grads: by parameter (None: no gradient reaches it); None where no level reads them.
        pairs: of the slot's tensors with their gradients, live, for exact levels.
        held: the evaluation on a held-out batch, for levels that are measured on that; made when first asked for.
        after: gradients of another loss, which levels above the first are moved by in place of the training one's.
        scores: the losses at other points of a level that moves the task, for zero-order strategies.
        again: evaluates the task anew if what its loss reads has moved since; None if it has not.
        cut: lets no derivative run through the gradients of some of many tasks, whose losses are not finite.
        overflows: whether the gradients are finite and their squares are not; found on the way up.
    """

    loss: Tensor | None
    grads: Sequence[Tensor | None] | None = None
    pairs: Sequence[Pair] = ()
    held: Callable[[], Evaluation] | None = None
    after: Params | None = None
    scores: Callable[[int, Sequence[Params]], Sequence[Tensor]] | None = None
    again: Callable[[], Evaluation | None] | None = None
    cut: Callable[[Tensor], None] = lambda bad: None
    overflows: bool = False


@dataclass
class Moved:
    """One step of a level.

    Attributes:
        start: what it moves, before the step.
        point: the same after it; with its graph where a tape runs.
        update: the step as it was applied.
        own: the strategy's own answer, before schedules and guards.
        read: the signal as the strategy read it.
        made_of: what the step is made anew from, where that is kept.
    """

    start: Params
    point: Params
    update: Params
    own: Params
    read: Params
    made_of: dict[str, Any] | None = None


class Trials(Protocol):
    """The trials of a tower's zero-order levels (:mod:`recopt.search`)."""

    @property
    def state(self) -> RunState:
        """The run's present state, which a trial may have replaced."""

    def due(self, number: int) -> bool:
        """True if a zero-order level may try something now."""

    def judge(self, number: int) -> bool:
        """A window of a zero-order level has closed. True if the run went back, to try another point."""

    def begin(self, number: int) -> None:
        """Try the first of the points that a zero-order level proposes."""


class Around(Protocol):
    """The surroundings of a tower's levels in a run: fresh starts, lessons, the record."""

    def judged(self, state: RunState, found: Evaluation, good: Sequence[bool], before: dict[str, int]) -> bool:
        """The guard has judged the tasks: record its acts since ``before``. True if any task is good, anywhere."""

    def closing(self, state: RunState, number: int, how: Closing) -> Closing:
        """``how`` a window of level ``number`` is closed, with what a run can do for that."""

    def closed(self, state: RunState, number: int) -> None:
        """A window of level ``number`` has closed."""

    def begin(self, state: RunState, name: str) -> None:
        """Slot ``name`` is about to be moved: start it afresh if that is due."""

    def lessons(self, state: RunState, number: int, signal: Signal, moved: Moved) -> Mapping[int, list[Pair]]:
        """By level above, the update of level ``number`` beside that of the teacher, tensor by tensor."""

    def factors(self, state: RunState, number: int) -> Sequence[float]:
        """The factors of schedules on the next update of level ``number``, per task."""

    def stepped(self, state: RunState, number: int, signal: Signal, update: Sequence[Any], read: Any) -> None:
        """Level ``number`` has made ``update`` on ``signal``, which its strategy read as ``read``: record that."""

    def hyperparameters(self, state: RunState, number: int) -> None:
        """Record the hyperparameters that a level has just stepped with, where they changed."""

    def log(self, state: RunState, number: int, values: dict[str, Any]) -> None:
        """Add a point to the record of level ``number`` (0-based; −1: the task)."""
