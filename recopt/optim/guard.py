"""The guard of a tower: non-finite gradients are skipped, a step that led to them is taken back.

Nothing but what the training loop gives is known: gradients always, losses sometimes. So:

- a gradient (or loss) that is not finite is skipped; the parameters stay untouched;
- where the next one is not finite either, it is not the batch but the point: the last update, computed again from
  the optimizer's state, is taken back, and the updates are halved from then on (they recover by 2 % a step);
- a step of a tower that tunes its own rate is never longer than a fifth of what it moves (the root mean square of
  the tensors, all together, or 0.01 if they are smaller): it is cut back and the rate lowered to match, so that a
  start value that is far too large costs a step and not the model;
- where losses are known, one above ten times the largest of the first ten is an explosion: the last update is taken
  back likewise. If the next loss is as high, it was not the update (harder data, another weight): that is then what
  losses are compared with from there on.

Updates are halved only for an update that was taken back, and to a 64th at the least.
"""

from __future__ import annotations

import math
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..contracts.strategy import Params
from ..core.guard import EXPLODE, FIRST, GROW, SHRINK

if TYPE_CHECKING:
    from .rungs import TaskRung

PERSISTS = 2
"""So many bad gradients in a row are the point's fault."""
REACH = 0.2
"""The longest update of a tower that tunes its rate, relative to the norm of what it moves."""
YOUNG, PERIOD = 10, 20
"""Updates are measured at each of the first steps, then this often, and whenever the rate or the gradient has grown."""
TINY = 1e-300
LEAST = 1 / 64
"""The smallest factor on updates."""


class Check(NamedTuple):
    """An update that was measured: its length over the longest one allowed (1 if it was cut to that), the coordinate of
    the rate, the gradient's norm, the step's number, and what a scheduler made of the rate."""

    ratio: float
    rate: float
    norm: float
    step: int
    scale: float


class Guard:
    """What it did is in ``counts``; ``shrink`` multiplies the updates of level 1."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self.counts = {"skipped": 0, "restored": 0, "bounded": 0}
        self.shrink = 1.0
        self.bad_run = 0
        self.exploded = False
        self.reference, self.seen = 0.0, 0
        self.steps = 0
        self.checks: dict[str, Check] = {}
        self._warned = False

    def passes(self, bottoms: Sequence[TaskRung], points: Params, norm: float, loss: float | None) -> bool:
        """Whether a step may be made on gradients of this norm; if not, what can be mended is."""
        if not self.active:
            return True
        good = math.isfinite(norm) and (loss is None or math.isfinite(loss))
        exploded = good and loss is not None and self.seen >= FIRST and loss > EXPLODE * self.reference
        if exploded and self.exploded and loss is not None:
            self.reference, exploded = abs(loss), False
        self.exploded = exploded
        if good and not exploded:
            self.bad_run = 0
            if loss is not None and self.seen < FIRST:
                self.reference, self.seen = max(self.reference, abs(loss)), self.seen + 1
            return True
        self.bad_run += 1
        if exploded or self.bad_run >= PERSISTS:
            self._restore(bottoms, points)
        self.counts["skipped"] += 1
        what = "gradient" if loss is None or math.isfinite(loss) else "loss"
        self._report("the loss exploded" if exploded else f"the {what} is not finite")
        return False

    def _restore(self, bottoms: Sequence[TaskRung], points: Params) -> None:
        updates = [bottom.last(points) for bottom in bottoms]
        if not any(update.known for update in updates):
            return
        for update, bottom in zip(updates, bottoms, strict=True):
            update.take_back()
            bottom.forget()
        self.counts["restored"] += 1
        self.shrink = max(self.shrink * SHRINK, LEAST)

    def _report(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"recopt.Optimizer skipped a step: {why}. Further ones are counted in opt.guards() without a warning.",
                RuntimeWarning,
                stacklevel=_level_of_the_caller(),
            )

    def moved(self, bottoms: Sequence[TaskRung], points: Params, norm: float, scale: float) -> None:
        """A step was made: where levels tune its rate, it must not have been a wild one."""
        self.shrink = min(1.0, self.shrink * GROW)
        self.steps += 1
        if not self.active:
            return
        for bottom in bottoms:
            if bottom.rate is not None and self._due(bottom, norm, scale):
                ratio = _bounded(bottom, bottom.rate, points)
                self.counts["bounded"] += ratio > 1
                rate = bottom.place.by.coords[bottom.rate]
                self.checks[str(bottom.place.number)] = Check(min(ratio, 1.0), rate, norm, self.steps, scale)

    def _due(self, bottom: TaskRung, norm: float, scale: float) -> bool:
        """Whether the length of an update has to be looked at: it is not free, and changes slowly later on."""
        last = self.checks.get(str(bottom.place.number))
        if last is None or self.steps <= YOUNG or bottom.rate is None:
            return True
        grown = bottom.place.by.coords[bottom.rate] - last.rate
        grown += math.log(max(norm, TINY) / max(last.norm, TINY)) + math.log(max(scale, TINY) / max(last.scale, TINY))
        long = last.ratio > 0 and grown > 0 and math.log(last.ratio) + grown > math.log(0.5)
        return long or self.steps >= last.step + PERIOD

    def tree(self) -> dict[str, Any]:
        """What :meth:`load` needs."""
        return {"counts": dict(self.counts), "shrink": self.shrink, "bad_run": self.bad_run, "exploded": self.exploded,
                "reference": self.reference, "seen": self.seen, "steps": self.steps,
                "checks": {key: list(check) for key, check in self.checks.items()}}  # fmt: skip

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`tree`."""
        self.counts, self.shrink, self.bad_run = dict(saved["counts"]), saved["shrink"], saved["bad_run"]
        self.exploded = saved["exploded"]
        self.reference, self.seen, self.steps = saved["reference"], saved["seen"], saved["steps"]
        self.checks = {key: Check(*check) for key, check in saved["checks"].items()}


def _level_of_the_caller() -> int:
    """How many frames above the function that asks the user's code is: that is where a warning is of use."""
    for level, (frame, _) in enumerate(traceback.walk_stack(sys._getframe(1)), 1):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("recopt", "torch"):
            return level
    return 1


def _bounded(bottom: TaskRung, rate: int, points: Params) -> float:
    """Cut the last update back to REACH times the norm of what it moves, and lower the rate to match.

    Returns:
        The length of the update as it was made, over the reach: above 1 if it was cut.
    """
    if not bottom.recorded:
        return 0.0
    update = bottom.last(points)
    length, limit = update.length(), REACH * update.size()
    if not length > limit:
        return length / limit
    update.take_back()
    limit = REACH * update.size()
    keep = min(1.0, limit / length)
    update.make_again(keep)
    bottom.place.by.add([rate], [math.log(keep)])
    if bottom.place.window > 1:
        bottom.forget()  # a window is at one rate
    return length / limit
