"""``gradient: auto``: the estimator of a level, chosen by what the graph tells, and why."""

from __future__ import annotations

import warnings

from ..checking.errors import Notice
from .level import AUTO, DIRECT, IMPLICIT, INIT, LOSS, TASK, VALUE, Level
from .structure import Structure

_LONG, _FEW, _TOO_LONG = 20, 3, 100
"""Steps from which a tape is long; numbers that tangents are carried of, each at the price of the tape, where it is too
long to be kept, and steps from which it is."""
_ACTS = {
    LOSS: "parameters of a loss act by second derivatives of the steps in a window",
    INIT: "a start acts through all steps of an episode",
}


def chosen(graph: Structure, number: int) -> Level:
    """Level ``number`` (0-based) with an estimator in the place of ``auto``, which is told with the reason.

    The levels below it are complete already. What its estimator leaves open is filled in as if it had been given.
    """
    level = graph.levels[number]
    if level.gradient != AUTO:
        return level
    name, why = _choice(graph, number)
    warnings.warn(Notice(f"L{graph.title(number)[1:]}: gradient is {name}, since {why}."), stacklevel=3)
    return level.model_copy(update={"gradient": name})


def _choice(graph: Structure, number: int) -> tuple[str, str]:
    """The name of an estimator, and the reason for it."""
    level, below = graph.levels[number], sorted(graph.below(number))
    if graph.order(number) == 0:
        return VALUE, f"'{level.by}' goes by values alone"
    if level.moves == TASK:
        return DIRECT, "the task has a gradient of its own"
    rough = next((m for m in below if graph.levels[m].tries), None)
    if rough is not None or (level.objective or "").startswith("steps_to"):
        why = "steps_to has no derivative" if rough is None else f"no derivative passes through {graph.title(rough)}"
        if level.episode and level.objective != "improvement":
            return "pes", f"{why}, and windows of one episode are not to be cut off from each other"
        return "es", why
    if level.proximal is not None:
        return IMPLICIT, "'proximal' makes an episode's end depend on its start wherever it began to rest"
    return ("unroll", _ACTS[level.moves]) if level.moves in _ACTS else _of_a_rule(graph, number)


def _of_a_rule(graph: Structure, number: int) -> tuple[str, str]:
    """The estimator of a level over a strategy whose updates have derivatives."""
    level = graph.levels[number]
    names = graph.names[level.moves]
    count, every = len(graph.moved(number, names)), level.every or graph.slots[level.moves].above.get("every", 1)
    over_the_task = all(graph.levels[m].moves == TASK for m in graph.subjects[number])
    if level.second_order and over_the_task and every > (_LONG if count == 1 else _TOO_LONG) and count <= _FEW:
        return "forward", f"derivatives by {count} of its numbers go along in less memory than a tape of {every} steps"
    if level.second_order:
        return "unroll", "second derivatives are asked for"
    if every == 1:
        return "online", "its window is one step, whose derivative is closed or one product"
    return "unroll", f"sums of the gradients after each of {every} steps give it without a graph through the model"
