"""The contract of an estimator: how the signal of a level is obtained from the updates below and what came after them.

An estimator is a class in a file of its own, registered under a name that levels ask for (``gradient: name``)::

    @estimator("mine")
    class Mine: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from ..contracts.strategy import Params
from .crossing import Crossing
from .level import Level
from .registry import ESTIMATORS
from .state import Record, Signal, SlotState, Window
from .structure import Structure

estimator = ESTIMATORS.register
POINTS, STACK = "points", "stack"
"""The keys, beside what an estimator carries, of all points and of the runs of the perturbed ones, each as one."""


@dataclass(frozen=True)
class Landing:
    """The point that a window ends at, with the losses there, whose graphs go back to it and no further.

    Attributes:
        point: what the levels below move of the task, as leaves; any tasks lead.
        moved: what the level moves, as leaves.
        grads: of the training loss by ``point``, with their graph; None where it does not reach.
        measured: the loss that the level is scored by, with its graph; 0-dimensional, or over tasks.
    """

    point: Params
    moved: Params
    grads: list[Tensor | None]
    measured: Tensor


@dataclass(frozen=True)
class Stretch:
    """Some steps of a window, with their tape.

    Attributes:
        records: the updates whose losses came in it; ``first``: the place in the window of the first of them.
        inputs: the task and what its levels remember at its beginning, as leaves; none for the first step.
        outputs: the same at its end; none for the last one.
    """

    records: Sequence[Record]
    first: int
    inputs: Params
    outputs: Params


@dataclass(frozen=True)
class Closing:
    """The end of a window: ``exact`` if a level above goes on differentiating, ``keep`` if others need the graph.

    ``imitation`` is the weight of the distance from a teacher. ``squares`` makes two sums of squares over the tasks of
    this process (the second of what is weighed by one over their number) those over all tasks of the run. ``landing``
    evaluates the task anew where the window ends; ``stretches`` are its segments, the last one first. ``log`` adds to
    the level's record, and ``told`` is the level's own memory of what was said.
    """

    exact: bool
    keep: bool
    imitation: float = 0.0
    squares: Callable[[Tensor], Tensor] = lambda pair: pair
    landing: Callable[[], Landing] | None = None
    stretches: Callable[[], Iterator[Stretch]] | None = None
    log: Callable[[dict[str, Any]], None] = lambda values: None
    told: dict[str, Any] = field(default_factory=dict)


class Estimator(Protocol):
    """The contract of an estimator.

    Class attributes:
        gradients: whether its signals are gradients, for first-order strategies; else scores, for zero-order ones.
        closed: whether closed derivatives of updates (:attr:`recopt.levels.state.Record.slopes`) will do for a tape.
        tapes: whether its signals come from a tape of the updates, or from what is carried along with them.
    """

    gradients: ClassVar[bool]
    closed: ClassVar[bool]
    tapes: ClassVar[bool]

    def refusal(self, graph: Structure, number: int) -> str | None:
        """The reason why level ``number`` (0-based) of a graph cannot be told in this way, and the remedy; or None."""
        ...

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        """The signal of a full window: the meta-loss, and its gradient by ``moved`` where there is one.

        Args:
            moved: what the level moves, as the tape has it. Empty where the records hold closed derivatives: the
                gradient is then by all coordinates of the strategy that is moved.
            slots: by subject, the slot that it moves: several that move one slot (parameter groups) have one loss.
        """
        ...


class Perturbing(Protocol):
    """The further contract of an estimator that makes a gradient of the scores of perturbed points.

    ``carried`` is a dict of plain trees that it keeps from one window to the next, where it is persistent.

    Class attributes:
        persistent: whether each point goes on from the end of its own last window, and not from where the run is.
    """

    persistent: ClassVar[bool]

    def perturbed(self, carried: dict[str, Any], fresh: bool, drawn: Params) -> Params:
        """The displacements ε of the coming window's points φ ± ε, [pairs, …] for each tensor.

        Args:
            fresh: whether they start where the run is: at first, after an episode, or always.
            drawn: new ones.
        """
        ...

    def estimate(self, carried: dict[str, Any], sigma: float, gaps: Tensor) -> Params:
        """The gradient, from the score at φ + ε less that at φ − ε of each pair."""
        ...


@runtime_checkable
class Carrying(Protocol):
    """The further contract of an exact estimator that carries something along with the task, in place of a tape.

    ``carried`` is a dict of plain trees, part of the run's state, whose tensors have those of the task's shapes (any
    tasks lead). ``moved`` is what the level moves.
    """

    def arrive(self, carried: dict[str, Any], slot: SlotState, signal: Signal, moved: Params) -> None:
        """Carry it through an evaluation of the task: ``signal`` is on the training loss, with its graph."""
        ...

    def step(self, carried: dict[str, Any], crossing: Crossing, moved: Params) -> None:
        """Carry it through a step of a level that moves the task."""
        ...

    def slopes(self, carried: dict[str, Any], slot: SlotState, signal: Signal, moved: Params) -> list[Tensor]:
        """The derivative of the signal's loss by each number that is moved, 0-dimensional or over tasks."""
        ...
