"""The guard's memory, and its judgement of evaluations by their losses and the norms of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

EXPLODE = 10.0
"""A loss above this multiple of the largest among the FIRST good ones is an explosion."""
FIRST = 10
"""The number of good losses that make the reference, and that judge steps of tensors that began at zero."""
PERSISTS = 2
"""So many evaluations in a row that are not finite are the point's fault."""
RISE, TRIES = 0.1, 5
"""The relative rise of the loss after which a step from zero is looked at; how often in a row it may be shortened."""
LEAST, MOST = 0.05, 0.3
"""The least and the most that is kept of it."""


@dataclass
class TaskGuard:
    """The memory of the guard of one task.

    Attributes:
        shrink: the factor on updates.
        reference: the largest of the first good losses, ``seen`` of them.
        bad_run: evaluations in a row that were bad.
        strikes: bad evaluations since there were two good ones in a row.
        exploded: whether the last evaluation was taken for an explosion.
        before: the last of the first good losses, which a step was made from.
        back: evaluations in a row that told of a step which overshot.
    """

    shrink: float = 1.0
    reference: float = 0.0
    seen: int = 0
    bad_run: int = 0
    strikes: int = 0
    exploded: bool = False
    before: float | None = None
    back: int = 0


@dataclass
class Guard:
    """The memory of the guard of the task's slot, by task (see :mod:`recopt.core.guard`).

    Attributes:
        counts: how often it acted, by the name of the act.
        checks: by level, the last update that was measured (see :class:`recopt.core.guard.Check`).
        steps: steps made.
        sizeless: levels of a tuned rate whose tensors began at zero, where losses are told; None if not yet known.
        still: tasks that were frozen at the last evaluation, in all processes.
    """

    tasks: list[TaskGuard]
    counts: dict[str, int] = field(default_factory=dict)
    checks: dict[int, tuple[float, float, float, int, float]] = field(default_factory=dict)
    steps: int = 0
    sizeless: list[int] | None = None
    still: int = 0

    @classmethod
    def empty(cls, tasks: int) -> Guard:
        """Nothing happened yet."""
        return cls([TaskGuard() for _ in range(tasks)])


class Verdict(Enum):
    """The guard's word on one evaluation."""

    GOOD = "good"
    SKIP = "skip"
    BACK = "back"
    """Skip it, and take the last update back."""


def judge(
    memory: Guard, losses: Sequence[float] | None, norms: Sequence[float], overflows: bool = False,
    places: Sequence[int] | None = None,
) -> list[Verdict]:  # fmt: skip
    """The verdicts on an evaluation, by its losses (None: not told) and its gradients' norms; ``memory`` follows.

    Args:
        overflows: whether the gradient is finite and its squares were not, before it was shortened.
        places: of the tasks that were evaluated; None: all of them.
    """
    told = [None] * len(norms) if losses is None else losses
    tasks = memory.tasks if places is None else [memory.tasks[n] for n in places]
    each = zip(tasks, told, norms, strict=True)
    return [_judge(own, memory.counts, loss, norm, overflows) for own, loss, norm in each]


def _judge(own: TaskGuard, counts: dict[str, int], loss: float | None, norm: float, overflows: bool) -> Verdict:
    good = math.isfinite(norm) and (loss is None or math.isfinite(loss))
    exploded = good and (overflows or (loss is not None and own.seen >= FIRST and loss > EXPLODE * own.reference))
    if exploded and own.exploded:
        exploded, own.reference = False, own.reference if loss is None else abs(loss)
        count(counts, "resized")
    own.exploded = exploded or (good and overflows)
    if good and not exploded:
        if not own.bad_run:
            own.strikes = 0
        own.bad_run = 0
        if loss is not None and own.seen < FIRST:
            own.reference, own.seen = max(own.reference, abs(loss)), own.seen + 1
            own.before = loss
        own.back = 0
        return Verdict.GOOD
    own.bad_run += 1
    own.strikes += 1
    count(counts, "skipped")
    return Verdict.BACK if (exploded and not overflows) or own.bad_run >= PERSISTS else Verdict.SKIP


def rose(own: TaskGuard, loss: float) -> bool:
    """True if one of the first losses is so much above the last, or any above all of them, that a step may be why."""
    if own.before is None or own.back >= TRIES:
        return False
    young = own.seen < FIRST and loss - own.before > RISE * abs(own.before)
    return young or loss > (1 + RISE) * own.reference


def kept(own: TaskGuard, loss: float, slope: float) -> float:
    """The part to keep of a step after which the loss rose, with ``slope`` at its end; 1 if it did not overshoot.

    It did where the slope accounts for the rise, which on a parabola is half the difference of the slopes at both ends;
    or where no loss was as high.
    """
    assert own.before is not None
    rise = loss - own.before
    if not (slope > rise or loss > (1 + RISE) * own.reference):
        return 1.0
    start = max(slope - 2 * rise, 0.0)
    lowest = start / (start + slope) if start else LEAST
    return min(max(LEAST, lowest, own.before / loss if loss > 0 else LEAST), MOST)


def count(counts: dict[str, int], act: str) -> None:
    """Note that the guard acted."""
    counts[act] = counts.get(act, 0) + 1
